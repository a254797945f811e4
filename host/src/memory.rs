//! How this process gives memory back: a host reads components of megabytes while it starts, and
//! then holds small objects for months.
//!
//! glibc keeps what was freed: in one arena a thread, up to eight a processor, and since a block that
//! was mapped is freed once, blocks of that size come out of an arena too. Measured with a hundred
//! plugins that was more than half of the host's memory. musl, which the image is built with, maps
//! large blocks and unmaps them when they are freed; there is nothing to say to it.

/// Arenas for all threads together. The host has few threads, and none of them allocates for long.
#[cfg(target_env = "gnu")]
const ARENAS: i32 = 2;
/// Blocks from this size on, in bytes, are mapped, and unmapped when they are freed: 128 KiB, which glibc begins
/// with, and stays at when it is told.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: i32 = 128 << 10;
/// What may lie free at the end of an arena, in bytes.
#[cfg(target_env = "gnu")]
const FREE_AT_END_BYTES: i32 = 128 << 10;

/// Says to the allocator what is above. To be called before there are threads.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back() {
    let settings = [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, FREE_AT_END_BYTES),
    ];
    for (parameter, value) in settings {
        // SAFETY: it reads two numbers. One that it does not take changes nothing.
        #[allow(unsafe_code)]
        let _ = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back what lies free between blocks that are in use: after plugins were loaded, whose
/// components left gaps. Takes a millisecond or so for each 10 MiB.
#[cfg(target_env = "gnu")]
pub(crate) fn trim() {
    // SAFETY: it only returns pages that hold nothing.
    #[allow(unsafe_code)]
    let _ = unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn trim() {}
