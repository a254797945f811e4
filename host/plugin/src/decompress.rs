//! Bounded decompression: it stops at the limit, whatever the header promises.

use std::io::Read;

use windlass_core::code::{Code, Refusal};
use windlass_core::limits::Limits;

/// How often larger than its packed form a component may become. Ordinary ones
/// are at 3 to 5; a bomb is at 1,000.
const RATIO_MAX: usize = 20;

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

/// The bytes without their packing.
///
/// # Errors
/// E113 when they are not packed as `key` says, E117 when they become too many.
pub(crate) fn decompress(
    packing: Packing,
    key: &str,
    packed: Vec<u8>,
    limits: &Limits,
) -> Result<Vec<u8>, Refusal> {
    let most = limits.decompressed_bytes.min(packed.len().saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES));
    let broken = |e: std::io::Error| Refusal::new(Code::Malformed, format!("{key} does not decompress: {e}"));
    let bytes = match packing {
        Packing::Plain => return Ok(packed),
        Packing::Gzip => {
            read_bounded(flate2::read::MultiGzDecoder::new(&packed[..]), most).map_err(broken)?
        }
        Packing::Zstd => {
            let mut from = zstd::stream::read::Decoder::new(&packed[..]).map_err(broken)?;
            from.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(broken)?;
            read_bounded(from, most).map_err(broken)?
        }
    };
    if bytes.len() > most {
        return Err(Refusal::new(
            Code::DecompressedTooLarge,
            format!(
                "{key}: {} bytes become more than {most} (at most {} MiB, and {RATIO_MAX} times the packed size)",
                packed.len(),
                limits.decompressed_bytes >> 20,
            ),
        ));
    }
    Ok(bytes)
}

/// Reads at most one byte more than `most`.
fn read_bounded(from: impl Read, most: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
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
