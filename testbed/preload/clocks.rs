//! Clocks that lie: a library that is loaded before libc and answers `clock_gettime` in its place.
//!
//! Built by `rustc` alone when a test asks for it (`windlass_testbed::clocks`); no crate is part of it.
//!
//! * `WINDLASS_CLOCK_RATE`: how many seconds every clock counts in a real one, from the first reading on. Default 1.
//! * `WINDLASS_CLOCK_WALL`: a file with the seconds that the wall clock is ahead, read again at most every 50 ms.

#![allow(clippy::missing_safety_doc)]

use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicI64, Ordering};

const REALTIME: c_int = 0;
const REALTIME_COARSE: c_int = 5;
const BILLION: i128 = 1_000_000_000;
const LOOK_AGAIN_NS: i64 = 50_000_000;

#[cfg(target_arch = "x86_64")]
const SYS_CLOCK_GETTIME: c_long = 228;
#[cfg(target_arch = "aarch64")]
const SYS_CLOCK_GETTIME: c_long = 113;

/// First readings of the clocks 0 to 15; zero: none yet.
static FIRST: [AtomicI64; 16] = [const { AtomicI64::new(0) }; 16];
/// When the file was read, and what it said.
static READ_AT: AtomicI64 = AtomicI64::new(i64::MIN);
static AHEAD: AtomicI64 = AtomicI64::new(0);

#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn getenv(name: *const std::ffi::c_char) -> *const std::ffi::c_char;
    fn open(path: *const std::ffi::c_char, flags: c_int, ...) -> c_int;
    fn read(file: c_int, into: *mut u8, size: usize) -> isize;
    fn close(file: c_int) -> c_int;
}

fn real(clock: c_int) -> Option<i64> {
    let mut now = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the kernel writes one timespec to a valid address.
    let code = unsafe { syscall(SYS_CLOCK_GETTIME, clock as c_long, &raw mut now) };
    (code == 0).then(|| now.seconds * BILLION as i64 + now.nanoseconds)
}

/// In thousandths, read once.
fn rate() -> i128 {
    static RATE: AtomicI64 = AtomicI64::new(0);
    let known = RATE.load(Ordering::Relaxed);
    if known != 0 {
        return known.into();
    }
    // SAFETY: the name is a C string, and nobody changes the environment of a program under test.
    let text = unsafe { getenv(c"WINDLASS_CLOCK_RATE".as_ptr()) };
    // SAFETY: what getenv gives is null or a C string.
    let text = (!text.is_null()).then(|| unsafe { std::ffi::CStr::from_ptr(text) });
    let rate = text.and_then(|text| text.to_str().ok()?.parse::<f64>().ok()).unwrap_or(1.0);
    RATE.store((rate * 1000.0) as i64, Ordering::Relaxed);
    (rate * 1000.0) as i128
}

/// Seconds that the wall clock is ahead.
fn ahead(now: i64) -> i64 {
    if now.saturating_sub(READ_AT.load(Ordering::Relaxed)) > LOOK_AGAIN_NS {
        READ_AT.store(now, Ordering::Relaxed);
        // SAFETY: as above; the buffer is as long as it is said to be.
        unsafe {
            let path = getenv(c"WINDLASS_CLOCK_WALL".as_ptr());
            let file = if path.is_null() { -1 } else { open(path, 0x80000) };
            if file >= 0 {
                let mut text = [0_u8; 32];
                let length = read(file, text.as_mut_ptr(), text.len());
                close(file);
                let text = std::str::from_utf8(&text[..length.max(0) as usize]).unwrap_or_default();
                AHEAD.store(text.trim().parse().unwrap_or(0), Ordering::Relaxed);
            }
        }
    }
    AHEAD.load(Ordering::Relaxed)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, into: *mut Timespec) -> c_int {
    let Some(now) = real(clock) else { return -1 };
    let mut shown = i128::from(now);
    if let Some(first) = FIRST.get(clock as usize) {
        let first = match first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => now,
            Err(first) => first,
        };
        shown = i128::from(first) + (i128::from(now) - i128::from(first)) * rate() / 1000;
    }
    if clock == REALTIME || clock == REALTIME_COARSE {
        shown += i128::from(ahead(real(1).unwrap_or(now))) * BILLION;
    }
    // SAFETY: whoever calls clock_gettime hands over a timespec.
    unsafe {
        into.write(Timespec {
            seconds: shown.div_euclid(BILLION) as i64,
            nanoseconds: shown.rem_euclid(BILLION) as i64,
        });
    }
    0
}
