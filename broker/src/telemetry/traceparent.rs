//! W3C trace context in the MQTT 5.0 user property `traceparent`.
//! Always true: pure; nothing is allocated to find out that a message is not sampled.
use mosquorum_proto::mqtt::PublishProperties;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

pub(super) const NAME: &str = "traceparent";

/// The context that a message carries, if its sender samples it.
#[must_use]
pub(super) fn sampled(properties: &PublishProperties) -> Option<SpanContext> {
    let mut all = properties.user_properties.iter();
    let (_, value) = all.find(|(name, _)| name.as_str() == NAME)?;
    parse(value.as_str()).filter(SpanContext::is_sampled)
}

/// Puts another context in the place of the one that came.
pub(super) fn replace(properties: &mut PublishProperties, context: &SpanContext) {
    if let Some((_, value)) = properties.user_properties.iter_mut().find(|(name, _)| name.as_str() == NAME) {
        *value = text(context).into();
    }
}

/// `version-trace-parent-flags` in lower-case hexadecimal; of later versions only what this one knows is looked at.
fn parse(text: &str) -> Option<SpanContext> {
    let bytes = text.as_bytes();
    let later = bytes.len() > 55 && bytes[55] == b'-' && !text.starts_with("00");
    if !(bytes.len() == 55 || later) || !text.is_ascii() || [2, 35, 52].iter().any(|at| bytes[*at] != b'-') {
        return None;
    }
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let (version, trace, parent, flags) = (&text[..2], &text[3..35], &text[36..52], &text[53..55]);
    if version == "ff" || ![version, trace, parent, flags].iter().all(|part| hex(part)) {
        return None;
    }
    let trace = TraceId::from(u128::from_str_radix(trace, 16).ok()?);
    let parent = SpanId::from(u64::from_str_radix(parent, 16).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let context = SpanContext::new(trace, parent, flags, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

fn text(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8() & 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_read_and_written_as_it_came() {
        let context = parse(GOOD).expect("good");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(text(&context), GOOD);
        assert!(parse("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").is_some());
    }

    #[test]
    fn what_is_no_context_is_none() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319cb7ad6b7169203331--01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "äöüäöüäöüäöüäöüäöüäöüäöüäöü-",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_a_sampled_message_is_followed_and_its_property_replaced() {
        let properties = |value: &str| PublishProperties {
            user_properties: vec![("a".into(), "b".into()), (NAME.into(), value.into())],
            ..PublishProperties::default()
        };
        assert!(sampled(&PublishProperties::default()).is_none());
        assert!(sampled(&properties(&GOOD.replace("-01", "-00"))).is_none());
        let mut sampled_one = properties(GOOD);
        let context = sampled(&sampled_one).expect("sampled");
        let next =
            SpanContext::new(context.trace_id(), SpanId::from(1), context.trace_flags(), false, TraceState::NONE);
        replace(&mut sampled_one, &next);
        assert_eq!(
            sampled_one.user_properties[1].1.as_str(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01"
        );
    }
}
