//! Bounded decompression: it stops at the limit, whatever the header promises.
//!
//! Twice: once to count, in a buffer, so that a bomb costs no memory; then into exactly as much
//! as it takes. A large component is the largest thing that the host ever holds.

use std::io::Read;
use std::sync::Arc;

use windlass_core::code::{Code, Refusal};
use windlass_core::limits::Limits;

/// Below this many bytes the ratio does not matter: so little harms nobody, and
/// a small component with zeros in its data may well pack better.
const RATIO_FREE_BYTES: usize = 1 << 20;

/// Largest window that a zstd stream may ask memory for, as a power of two: 32 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// How the bytes under a key are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Zstd,
    Gzip,
}

/// Read at once while counting.
const BUFFER_BYTES: usize = 64 << 10;

/// The bytes without their packing.
///
/// # Errors
/// E113 when they are not packed as `key` says, E117 when they become too many.
pub(crate) fn decompress(
    packing: Packing,
    key: &str,
    packed: Vec<u8>,
    limits: &Limits,
) -> Result<Arc<[u8]>, Refusal> {
    if packing == Packing::Plain {
        return Ok(packed.into());
    }
    let ratio = limits.packing_ratio;
    let most = limits.decompressed_bytes.min(packed.len().saturating_mul(ratio).max(RATIO_FREE_BYTES));
    let broken = |e: std::io::Error| Refusal::new(Code::Malformed, format!("{key} does not decompress: {e}"));
    let size = reader(packing, &packed).and_then(|from| count(from, most)).map_err(broken)?;
    if size > most {
        return Err(Refusal::new(
            Code::DecompressedTooLarge,
            format!(
                "{key}: stopped at {} KiB, which {} packed bytes exceed (at most {} MiB, and {ratio} times the \
                 packed size)",
                most >> 10,
                packed.len(),
                limits.decompressed_bytes >> 20,
            ),
        ));
    }
    let mut whole: Arc<[u8]> = std::iter::repeat_n(0, size).collect();
    let into = Arc::get_mut(&mut whole).expect("nobody else has it yet");
    reader(packing, &packed).and_then(|mut from| from.read_exact(into)).map_err(broken)?;
    Ok(whole)
}

fn reader(packing: Packing, packed: &[u8]) -> std::io::Result<Box<dyn Read + '_>> {
    Ok(match packing {
        Packing::Plain => Box::new(packed),
        Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        Packing::Zstd => {
            let mut from = zstd::stream::read::Decoder::new(packed)?;
            from.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(from)
        }
    })
}

/// How many bytes there are; stops after the first above `most`.
fn count(mut from: impl Read, most: usize) -> std::io::Result<usize> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut size = 0_usize;
    while size <= most {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => size += read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(size)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        to.write_all(bytes).expect("in memory");
        to.finish().expect("in memory")
    }

    #[test]
    fn a_bomb_stops_at_the_ratio_long_before_the_limit() {
        let zeros = vec![0; 64 << 20];
        for (packing, packed) in [
            (Packing::Gzip, gzip(&zeros)),
            (Packing::Zstd, zstd::encode_all(&zeros[..], 1).expect("in memory")),
        ] {
            let refusal = decompress(packing, "k", packed, &Limits::default()).expect_err("a bomb");
            assert_eq!(refusal.code, Code::DecompressedTooLarge);
        }
    }

    #[test]
    fn more_than_the_limit_is_refused_at_any_ratio() {
        let limits = Limits { decompressed_bytes: 1000, ..Limits::default() };
        let noise: Vec<u8> = (0..2000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let refusal = decompress(Packing::Gzip, "k", gzip(&noise), &limits).expect_err("too large");
        assert_eq!(refusal.code, Code::DecompressedTooLarge);
        assert_eq!(decompress(Packing::Gzip, "k", gzip(&noise[..1000]), &limits).expect("fits").len(), 1000);
    }

    #[test]
    fn broken_packing_is_malformed() {
        let mut cut = gzip(&[7; 5000]);
        cut.truncate(20);
        let mut trailing = zstd::encode_all(&[7; 100][..], 1).expect("in memory");
        trailing.extend_from_slice(b"trailing");
        for (packing, bytes) in [
            (Packing::Gzip, cut),
            (Packing::Zstd, trailing),
            (Packing::Gzip, b"\0asm\x0d\0\x01\0".to_vec()),
            (Packing::Zstd, b"\0asm\x0d\0\x01\0".to_vec()),
        ] {
            let refusal = decompress(packing, "k", bytes, &Limits::default()).expect_err("broken");
            assert_eq!(refusal.code, Code::Malformed, "{refusal}");
        }
    }
}
