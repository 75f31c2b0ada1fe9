//! TensorBoard's event files: records with checksums around small protocol buffers.
//!
//! The framing is that of TensorFlow's `record_writer.h`, the messages are `Event`, `Summary` and `Summary.Value` of its `event.proto` and
//! `summary.proto`.

use sd3pipe_stages::train::metrics::Scalar;

/// The record that an event file begins with.
pub fn head() -> Vec<u8> {
    const FILE_VERSION: u8 = 3;
    record(&[time(), field(FILE_VERSION, b"brain.Event:2")].concat())
}

/// The record of one point.
pub fn scalar(scalar: &Scalar) -> Vec<u8> {
    const STEP: u8 = 2;
    const SUMMARY: u8 = 5;
    const VALUE: u8 = 1;
    const TAG: u8 = 1;
    const SIMPLE_VALUE: u8 = 2;
    let mut value = field(TAG, scalar.tag.as_bytes());
    value.push(key(SIMPLE_VALUE, FOUR_BYTES));
    value.extend((scalar.value as f32).to_le_bytes());
    let mut event = time();
    event.push(key(STEP, VARINT));
    event.extend(varint(scalar.step));
    event.extend(field(SUMMARY, &field(VALUE, &value)));
    record(&event)
}

const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const LENGTH_AND_BYTES: u8 = 2;
const FOUR_BYTES: u8 = 5;

fn key(number: u8, kind: u8) -> u8 {
    number << 3 | kind
}

/// The time of an event: none. It would make the files of equal trainings differ.
fn time() -> Vec<u8> {
    const WALL_TIME: u8 = 1;
    [&[key(WALL_TIME, EIGHT_BYTES)][..], &0_f64.to_le_bytes()].concat()
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[key(number, LENGTH_AND_BYTES)], &*varint(bytes.len() as u64), bytes].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length, &masked(&length).to_le_bytes()[..], bytes, &masked(bytes).to_le_bytes()].concat()
}

/// The checksum of bytes that may hold checksums themselves.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a record has some dozen bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers_take_seven_bits_a_byte() {
        assert_eq!(
            [varint(0), varint(127), varint(128), varint(300)],
            [vec![0], vec![127], vec![128, 1], vec![172, 2]]
        );
    }

    /// Spelt out by hand from the two `.proto` files.
    #[test]
    fn an_event_is_as_the_format_says() {
        let bytes = scalar(&Scalar { step: 300, tag: "a".to_owned(), value: 0.5 });
        let event = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0x10, 172, 2],
            &[0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0, 0x3f],
        ]
        .concat();
        assert_eq!(bytes[..8], (event.len() as u64).to_le_bytes());
        assert_eq!(bytes[12..12 + event.len()], event);
        assert_eq!(bytes.len(), 16 + event.len());
        assert_eq!(head()[12 + 9..12 + 24], *b"\x1a\x0dbrain.Event:2");
    }
}
