//! The process's memory: mimalloc's, but for large pieces, which come from the system one by one and go back to it at once.
//! Always true: a piece's size and alignment alone decide where it comes from, so nothing is remembered about it; what is freed
//! of large pieces is not resident any more, and one that grows is moved by the system without being copied.
//!
//! mimalloc keeps what is freed for a while, in the segments of the thread that asked for it, and copies what grows: with
//! messages of some megabytes, read, encoded and written on different threads, that is several times what they take.
use mimalloc::MiMalloc;
use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};
use std::{
    alloc::{GlobalAlloc, Layout},
    ptr::null_mut,
};

/// Mapping and unmapping costs a few microseconds: little beside filling so many bytes.
const LARGE_BYTES: usize = 1 << 20;
/// Every system has pages of at least so many bytes.
const PAGE_BYTES: usize = 4096;

/// For `#[global_allocator]`.
#[derive(Debug, Clone, Copy)]
pub struct Allocator;

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE_BYTES && layout.align() <= PAGE_BYTES
}

/// Zeros of the system; null if there are none.
fn map(bytes: usize) -> *mut u8 {
    // SAFETY: a new private mapping, which aliases nothing.
    #[allow(unsafe_code)]
    let mapped = unsafe { mmap_anonymous(null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
    mapped.map_or(null_mut(), |start| start.cast())
}

// SAFETY: pieces are either mimalloc's or mappings of their own, and which of them follows from the layout that every call has;
// mappings are aligned to pages, and as long as they were asked to be.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        if is_large(layout) { map(layout.size()) } else { unsafe { MiMalloc.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        if is_large(layout) { map(layout.size()) } else { unsafe { MiMalloc.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        if is_large(layout) {
            // SAFETY: it is a whole mapping of this length. Were it not unmapped, it would only be lost.
            let _ = unsafe { munmap(piece.cast(), layout.size()) };
        } else {
            // SAFETY: it came from there.
            unsafe { MiMalloc.dealloc(piece, layout) }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size is valid for this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(wanted)) {
            // SAFETY: it came from there.
            (false, false) => unsafe { MiMalloc.realloc(piece, layout, size) },
            (true, true) => {
                // SAFETY: it is a whole mapping of this length, and nobody refers to it during this call.
                let moved = unsafe { mremap(piece.cast(), layout.size(), size, MremapFlags::MAYMOVE) };
                moved.map_or(null_mut(), |start| start.cast())
            }
            _ => {
                // SAFETY: as for the single calls; the pieces do not overlap, and both are as long as what is copied.
                unsafe {
                    let other = self.alloc(wanted);
                    if !other.is_null() {
                        piece.copy_to_nonoverlapping(other, layout.size().min(size));
                        self.dealloc(piece, layout);
                    }
                    other
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;

    /// Bytes of this process that lie in memory.
    fn resident() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
    }

    #[test]
    fn what_is_in_a_piece_stays_there_however_it_grows_and_shrinks() {
        for align in [1, 64, 4096, 1 << 16] {
            let mut layout = Layout::from_size_align(1000, align).unwrap();
            // SAFETY: every piece is used within its layout and freed with it.
            unsafe {
                let mut piece = Allocator.alloc(layout);
                (0..1000).for_each(|at| piece.add(at).write(at as u8));
                for size in [LARGE_BYTES - 1, LARGE_BYTES, 10 * LARGE_BYTES + 1, 2 * LARGE_BYTES, 5000, 2 * LARGE_BYTES]
                {
                    piece = Allocator.realloc(piece, layout, size);
                    layout = Layout::from_size_align(size, align).unwrap();
                    assert!(piece.addr().is_multiple_of(align));
                    piece.add(size - 1).write(7);
                    assert!((0..1000).all(|at| piece.add(at).read() == at as u8), "{align} {size}");
                }
                Allocator.dealloc(piece, layout);
                let zeros = Allocator.alloc_zeroed(layout);
                assert!((0..layout.size()).all(|at| zeros.add(at).read() == 0));
                Allocator.dealloc(zeros, layout);
            }
        }
    }

    #[test]
    fn a_large_piece_goes_back_to_the_system_at_once_and_costs_nothing_before_it_is_written() {
        let layout = Layout::from_size_align(256 << 20, 1).unwrap();
        // SAFETY: as above.
        unsafe {
            let piece = Allocator.alloc(layout);
            let before = resident();
            piece.write_bytes(1, layout.size());
            assert!(resident() > before + (200 << 20));
            Allocator.dealloc(piece, layout);
            assert!(resident() < before + (100 << 20));
        }
    }
}
