//! Reads what a Unigram tokenizer needs from a SentencePiece model (`spiece.model`, a protobuf message).

use super::shape::{check_charsmap, check_pieces};

/// A SentencePiece model of the Unigram kind. The names of the fields and their numbers are those of
/// `sentencepiece_model.proto`.
#[derive(Debug)]
pub(super) struct SentencePieceModel {
    /// Each piece with the logarithm of its probability; the position is the id.
    pub(super) pieces: Vec<(String, f64)>,
    /// The ids of the pieces that no text is split into: `<pad>`, `</s>`.
    pub(super) control: Vec<u32>,
    /// The id of the piece that stands for whatever no other piece covers.
    pub(super) unknown: u32,
    /// `NormalizerSpec.precompiled_charsmap`; empty if the text is left as it is.
    pub(super) charsmap: Vec<u8>,
}

/// What is wrong with a model, in words.
type Fault = String;

/// Ids are 32 bits wide elsewhere, and no vocabulary comes near this.
const MAXIMUM_PIECES: usize = 1 << 24;

// SentencePiece.Type
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;

// TrainerSpec.ModelType
const UNIGRAM: u64 = 1;

impl SentencePieceModel {
    /// Parses a whole model.
    ///
    /// # Errors
    /// A sentence about the first thing that is damaged, or that a Unigram model of T5's kind does not have:
    /// user-defined pieces, byte pieces, another treatment of white space.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut model = Self { pieces: Vec::new(), control: Vec::new(), unknown: 0, charsmap: Vec::new() };
        let mut unknown = None;
        let mut has_normalizer = false;
        let mut fields = Fields { bytes, at: 0 };
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(piece)) => {
                    if model.pieces.len() >= MAXIMUM_PIECES {
                        return Err(format!("it has more than {MAXIMUM_PIECES} pieces"));
                    }
                    let id = model.pieces.len() as u32;
                    let (text, score, kind) = parse_piece(piece).map_err(|fault| format!("piece {id}: {fault}"))?;
                    match kind {
                        NORMAL => {}
                        CONTROL => model.control.push(id),
                        UNKNOWN if unknown.is_none() => unknown = Some(id),
                        _ => {
                            return Err(format!(
                                "piece {id} is of type {kind}, which Unigram models of T5 do not have"
                            ));
                        }
                    }
                    model.pieces.push((text, score));
                }
                (2, Value::Bytes(trainer)) => check_trainer(trainer)?,
                (3, Value::Bytes(normalizer)) => {
                    model.charsmap = parse_normalizer(normalizer)?;
                    has_normalizer = true;
                }
                _ => {}
            }
        }
        if !has_normalizer {
            return Err("it ends before its normaliser, or is no SentencePiece model".to_owned());
        }
        check_pieces(model.pieces.iter().map(|(text, _)| text.as_str()))?;
        model.unknown = unknown.ok_or("it has no piece for what is unknown")?;
        Ok(model)
    }
}

/// A piece's text, score and type.
fn parse_piece(bytes: &[u8]) -> Result<(String, f64, u64), Fault> {
    let (mut text, mut score, mut kind) = (String::new(), 0.0, NORMAL);
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(piece)) => {
                text = std::str::from_utf8(piece).map_err(|_| "its text is not UTF-8")?.to_owned();
            }
            (2, Value::Fixed32(bits)) => score = f64::from(f32::from_bits(bits)),
            (3, Value::Varint(value)) => kind = value,
            _ => {}
        }
    }
    if text.is_empty() {
        return Err("it has no text".to_owned());
    }
    if !score.is_finite() {
        return Err(format!("its score is {score}"));
    }
    Ok((text, score, kind))
}

/// `TrainerSpec`: only that the model is a Unigram without pieces for bytes.
fn check_trainer(bytes: &[u8]) -> Result<(), Fault> {
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (3, Value::Varint(kind)) if kind != UNIGRAM => {
                return Err("it is not a Unigram model (its `model_type` is another)".to_owned());
            }
            (24 | 35, Value::Varint(1..)) => {
                return Err("it has `treat_whitespace_as_suffix` or `byte_fallback`, which T5's does not".to_owned());
            }
            _ => {}
        }
    }
    Ok(())
}

/// `NormalizerSpec`: its table of characters, once it is sure that the rest is as T5's is.
fn parse_normalizer(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut charsmap: &[u8] = &[];
    let mut fields = Fields { bytes, at: 0 };
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (2, Value::Bytes(map)) => charsmap = map,
            (3..=5, Value::Varint(0)) => {
                return Err("it leaves white space alone, which T5's does not".to_owned());
            }
            _ => {}
        }
    }
    if !charsmap.is_empty() {
        check_charsmap(charsmap)?;
    }
    Ok(charsmap.to_vec())
}

/// A field's value, by its wire type.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of one protobuf message, in the order in which they were written.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The next field's number and value, or `None` at the end of the message.
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Fault> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                let bits = self.take(4)?.try_into().map_err(|_| self.cut())?;
                Value::Fixed32(u32::from_le_bytes(bits))
            }
            other => return Err(format!("it has a field of wire type {other}, so it is no SentencePiece model")),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| self.cut())?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("it has a number of more than 64 bits, so it is no SentencePiece model".to_owned())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Fault> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.cut())?;
        self.at += taken.len();
        Ok(taken)
    }

    fn cut(&self) -> Fault {
        "it ends in the middle of a field".to_owned()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A field of bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 128, "one byte of length is enough for a test");
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
        let score = [&[2 << 3 | 5][..], &score.to_le_bytes()].concat();
        field(1, &[field(1, text.as_bytes()), score, vec![3 << 3, kind]].concat())
    }

    /// A model with T5's first three pieces, some more, and no table of characters.
    pub(in super::super) fn small_model() -> Vec<u8> {
        [
            piece("<pad>", 0.0, 3),
            piece("</s>", 0.0, 3),
            piece("<unk>", 0.0, 2),
            piece("\u{2581}", -3.0, 1),
            piece("a", -2.0, 1),
            piece("\u{2581}cat", -1.5, 1),
            field(2, &[3 << 3, 1]),
            field(3, &field(1, b"identity")),
        ]
        .concat()
    }

    #[test]
    fn pieces_scores_and_types_are_read() {
        let model = SentencePieceModel::parse(&small_model()).unwrap();
        assert_eq!(model.pieces.len(), 6);
        assert_eq!(model.pieces[5], ("\u{2581}cat".to_owned(), -1.5));
        assert_eq!((model.unknown, model.control, model.charsmap), (2, vec![0, 1], vec![]));
    }

    #[test]
    fn a_model_cut_short_anywhere_is_an_error() {
        let whole = small_model();
        for length in 0..whole.len() {
            assert!(SentencePieceModel::parse(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn no_flipped_byte_makes_the_reader_panic() {
        let whole = small_model();
        for at in 0..whole.len() {
            for value in [0x00, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let _ = SentencePieceModel::parse(&damaged);
            }
        }
    }

    #[test]
    fn huge_lengths_are_errors() {
        let length_of_everything = [&[1 << 3 | 2][..], &[0xff; 9], &[0x01]].concat();
        let endless_number = [0xff; 32];
        for bytes in [&length_of_everything[..], &endless_number] {
            assert!(SentencePieceModel::parse(bytes).is_err());
        }
        for charsmap in [&[0xff, 0xff, 0xff, 0xff][..], &[0, 0, 0, 0], &[4, 0, 0, 0, 1], &[1]] {
            let bytes = [piece("<unk>", 0.0, 2), field(3, &field(2, charsmap))].concat();
            let fault = SentencePieceModel::parse(&bytes).unwrap_err();
            assert_eq!(fault, "its table of characters is damaged");
        }
    }

    #[test]
    fn models_of_other_kinds_are_refused() {
        let byte_pairs = field(2, &[3 << 3, 2]);
        let user_defined = piece("sks", 0.0, 4);
        let spaces_kept = field(3, &[4 << 3, 0]);
        let not_a_number = piece("b", f32::NAN, 1);
        let empty = piece("", 0.0, 1);
        for extra in [byte_pairs, user_defined, spaces_kept, not_a_number, empty] {
            assert!(SentencePieceModel::parse(&[small_model(), extra].concat()).is_err());
        }
    }
}
