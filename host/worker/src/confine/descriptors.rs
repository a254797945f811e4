//! Descriptors: what the parent left open by mistake is closed.
//!
//! All of ours are close-on-exec; this is for those of a library that forgot.

use rustix::io::Errno;

const FIRST: u32 = 3;

/// Closes every descriptor but 0, 1 and 2; says whether that worked.
///
/// Whoever owns one of them in this process loses it, hence: before anything is opened.
pub(super) fn close_all_but_standard() -> bool {
    match close_range() {
        Ok(()) => true,
        Err(_) => close_listed().is_ok(),
    }
}

/// In one call, since Linux 5.9.
#[allow(unsafe_code)]
fn close_range() -> Result<(), Errno> {
    // SAFETY: the call takes three integers and touches no memory. Nothing in this process owns a
    // descriptor above 2 yet: it has just started and has one thread.
    let done = unsafe { libc::syscall(libc::SYS_close_range, FIRST, u32::MAX, 0_u32) };
    if done == 0 { Ok(()) } else { Err(Errno::NOSYS) }
}

/// One by one, for kernels and pods without the call.
fn close_listed() -> std::io::Result<()> {
    let listed: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in listed.into_iter().filter(|number| *number >= FIRST as i32) {
        close(descriptor);
    }
    Ok(())
}

#[allow(unsafe_code)]
fn close(descriptor: i32) {
    // SAFETY: as above: an integer, and no owner in this process. One of them was the listing's
    // own and is closed already: that is an error nobody reads.
    let _ = unsafe { libc::close(descriptor) };
}
