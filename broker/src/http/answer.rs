//! What is answered: a text, or a file in parts.
use hyper::{
    StatusCode,
    body::{Bytes, Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, ReadBuf, Take},
};

/// Bytes of a file that are under way at once.
const PART_BYTES_MAX: u64 = 16 << 10;

pub(crate) type Answer = hyper::Response<Body>;

/// A body whose length is known before it is sent.
pub(crate) enum Body {
    Text(Bytes),
    File(Take<File>),
}

/// An answer whose body is here.
pub(crate) fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Answer {
    answer(status, kind, Body::Text(text.into()))
}

/// A file, as long as it was when it was opened.
pub(crate) fn file(file: File, bytes: u64, kind: &'static str) -> Answer {
    answer(StatusCode::OK, kind, Body::File(file.take(bytes)))
}

fn answer(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut answer = Answer::new(body);
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, kind)
}

/// The answer with one more header.
#[must_use]
pub(crate) fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let body = self.get_mut();
        if body.is_end_stream() {
            return Poll::Ready(None);
        }
        let part = match body {
            Self::Text(text) => std::mem::take(text),
            Self::File(file) => {
                let mut part = vec![0; file.limit().min(PART_BYTES_MAX) as usize];
                let mut buffer = ReadBuf::new(&mut part);
                ready!(Pin::new(file).poll_read(cx, &mut buffer))?;
                let read = buffer.filled().len();
                if read == 0 {
                    return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
                }
                part.truncate(read);
                part.into()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Text(text) => text.len() as u64,
            Self::File(file) => file.limit(),
        })
    }
}
