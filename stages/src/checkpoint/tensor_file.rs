//! One safetensors file, mapped into memory, its header checked before any tensor is handed out.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::CheckpointError;

/// The bytes before the header: its length as a little-endian u64.
const LENGTH_BYTES: usize = 8;

/// A longer header is refused; the format's own reader has the same limit.
const LONGEST_HEADER: u64 = 100_000_000;

/// What the header says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The type of its values.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes lie in the file, counted from the file's first byte.
    pub range: Range<usize>,
}

/// A safetensors file whose header has been checked in full: every range lies inside the file, ranges touch without gap
/// or overlap, and each is as long as its shape and type ask for.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Maps the file and checks its header; reads no tensor.
    ///
    /// # Errors
    /// When the path is not a readable file, or the file is not whole and well-formed safetensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref().to_path_buf();
        let unreadable = |source| CheckpointError::Unreadable { path: path.clone(), source };
        // Asked before opening, because opening a pipe would wait for a writer.
        if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
            return Err(CheckpointError::NotAFile { path });
        }
        let file = File::open(&path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.len() < LENGTH_BYTES as u64 {
            return Err(not_safetensors(path, "it has less than 8 bytes".into(), b""));
        }
        // SAFETY: the map is only read, as plain bytes. A writer who changes the file meanwhile changes what is read,
        // which the stages notice by the file's identity; the bytes carry no invariant that memory safety rests on.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let (tensors, metadata) = read_header(&path, &map)?;
        Ok(Self { path, map, tensors, metadata })
    }

    /// The path that the file was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Type, shape and place of one tensor, or nothing when the file has no such tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The bytes of one tensor: little-endian values, row-major.
    ///
    /// # Errors
    /// When the file has no tensor of that name.
    pub fn bytes(&self, name: &str) -> Result<&[u8], CheckpointError> {
        self.tensors
            .get(name)
            .and_then(|info| self.map.get(info.range.clone()))
            .ok_or_else(|| CheckpointError::NoTensor { path: self.path.clone(), name: name.into() })
    }

    /// Bytes by their place, which must come from an [`info`](Self::info) of this file: others are empty.
    pub(super) fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.map.get(range.clone()).unwrap_or_default()
    }

    /// Lets the system take back the memory that some of the file's bytes take up. Whoever reads them again reads them from
    /// the file again.
    pub fn release(&self, range: &Range<usize>) {
        // A hint: a system that doesn't know it only keeps the pages until it needs them.
        #[cfg(unix)]
        if range.start < range.end && range.end <= self.map.len() {
            // SAFETY: the map is a shared one of a file and never written to, so its pages come back as they were.
            let advised = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            drop(advised);
        }
    }

    /// The free-form strings that the header carries under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

type Header = (BTreeMap<String, TensorInfo>, BTreeMap<String, String>);

fn read_header(path: &Path, bytes: &[u8]) -> Result<Header, CheckpointError> {
    let damaged = |reason: String| CheckpointError::Header { path: path.into(), reason };
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(not_safetensors(path.into(), "it has less than 8 bytes".into(), b""));
    };
    let length = u64::from_le_bytes(*length);
    // Anything that is not safetensors gives an absurd length here; a real header starts with a brace.
    if length > LONGEST_HEADER || rest.first() != Some(&b'{') {
        return Err(not_safetensors(path.into(), format!("its header would be {length} bytes long"), bytes));
    }
    let header_end = LENGTH_BYTES + length as usize;
    let Some(header) = bytes.get(LENGTH_BYTES..header_end) else {
        return Err(wrong_length(path, bytes, u128::from(length) + LENGTH_BYTES as u128));
    };
    // Parsing checks shapes against ranges, and that the ranges touch; only the file's end is left to check.
    let header: Metadata = serde_json::from_slice(header).map_err(|error| damaged(error.to_string()))?;
    let described = header.data_len() as u128 + header_end as u128;
    if described != bytes.len() as u128 {
        return Err(wrong_length(path, bytes, described));
    }
    let tensors = header
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let (start, end) = info.data_offsets;
            let range = header_end + start..header_end + end;
            (name, TensorInfo { dtype: info.dtype, shape: info.shape.clone(), range })
        })
        .collect();
    let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    Ok((tensors, metadata))
}

fn wrong_length(path: &Path, bytes: &[u8], described: u128) -> CheckpointError {
    CheckpointError::WrongLength { path: path.into(), actual: bytes.len() as u64, described }
}

/// Says what the file is instead, by its first bytes, because these mistakes are the common ones.
fn not_safetensors(path: PathBuf, otherwise: String, bytes: &[u8]) -> CheckpointError {
    let (found, remedy) = if bytes.starts_with(b"version https://git-lfs") {
        ("it is a Git LFS pointer".into(), "fetch the file itself with `git lfs pull`")
    } else if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80") {
        (
            "it is a pickled .ckpt or .pt file".into(),
            "convert it to safetensors first; pickles can run code and are not read",
        )
    } else if bytes.starts_with(b"GGUF") {
        ("it is a GGUF file".into(), "use the model's safetensors file")
    } else if bytes.trim_ascii_start().starts_with(b"<") {
        ("it is a web page".into(), "the download failed, perhaps for want of a login: download it again")
    } else {
        (otherwise, "copy or download it again")
    };
    CheckpointError::NotSafetensors { path, found, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    fn error_of(bytes: &[u8]) -> CheckpointError {
        let (_folder, path) = file_of(bytes);
        let error = TensorFile::open(&path).unwrap_err();
        assert!(error.to_string().contains("model.safetensors"), "{error}");
        error
    }

    const GOOD: &str = r#"{"__metadata__":{"a":"b"},
        "x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"U8","shape":[],"data_offsets":[8,9]}}"#;

    #[test]
    fn a_good_file_gives_its_tensors_and_metadata() {
        let (_folder, path) = file_of(&with_header(GOOD, &[1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let file = TensorFile::open(path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(file.bytes("y").unwrap(), [9]);
        assert_eq!(file.info("x").unwrap().shape, [2]);
        assert_eq!(file.metadata()["a"], "b");
        assert!(matches!(file.bytes("z"), Err(CheckpointError::NoTensor { .. })));
    }

    #[test]
    fn a_file_cut_short_anywhere_is_an_error() {
        let whole = with_header(GOOD, &[0; 9]);
        for length in 0..whole.len() {
            error_of(&whole[..length]);
        }
        assert!(matches!(error_of(&whole[..whole.len() - 1]), CheckpointError::WrongLength { .. }));
        assert!(matches!(error_of(&[&whole[..], b"more"].concat()), CheckpointError::WrongLength { .. }));
    }

    #[test]
    fn an_absurd_header_length_is_an_error() {
        for length in [u64::MAX, u64::MAX - 8, 1 << 62, LONGEST_HEADER + 1] {
            let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
            assert!(matches!(error_of(&bytes), CheckpointError::NotSafetensors { .. }));
        }
        let bytes = [&LONGEST_HEADER.to_le_bytes()[..], b"{}"].concat();
        assert!(matches!(error_of(&bytes), CheckpointError::WrongLength { .. }));
    }

    #[test]
    fn a_header_that_lies_is_an_error() {
        let tensor = |shape: &str, start: u64, end: u64| {
            format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
        };
        let headers = [
            format!(r#"{{"x":{}}}"#, tensor("[3]", 0, 8)),
            format!(r#"{{"x":{}}}"#, tensor("[2]", 8, 0)),
            format!(r#"{{"x":{}}}"#, tensor("[2]", 4, 12)),
            format!(r#"{{"x":{},"y":{}}}"#, tensor("[2]", 0, 8), tensor("[1]", 4, 8)),
            format!(r#"{{"x":{},"y":{}}}"#, tensor("[1]", 0, 4), tensor("[1]", 8, 12)),
            format!(r#"{{"x":{}}}"#, tensor("[9223372036854775807,9223372036854775807]", 0, 8)),
            format!(r#"{{"x":{}}}"#, tensor("[4611686018427387904]", 0, 8)),
            r#"{"x":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#.into(),
            r#"{"x":"#.into(),
            "[".repeat(100_000).replacen('[', "{", 1),
        ];
        for header in headers {
            assert!(matches!(error_of(&with_header(&header, &[0; 8])), CheckpointError::Header { .. }), "{header:.99}");
        }
    }

    #[test]
    fn lengths_that_add_up_to_more_than_memory_are_an_error() {
        let size = (1u64 << 61) - 4;
        let tensors: Vec<_> = (0..7)
            .map(|i| {
                let (start, end) = (i * size, (i + 1) * size);
                format!(r#""t{i}":{{"dtype":"F32","shape":[{}],"data_offsets":[{start},{end}]}}"#, size / 4)
            })
            .collect();
        let header = format!("{{{}}}", tensors.join(","));
        assert!(matches!(error_of(&with_header(&header, &[0; 8])), CheckpointError::WrongLength { .. }));
    }

    #[test]
    fn a_damaged_byte_anywhere_is_an_error_or_a_good_file() {
        let whole = with_header(GOOD, &[0; 9]);
        let (_folder, path) = file_of(&whole);
        for place in 0..whole.len() {
            for value in [0, b'0', b'9', b'"', b',', b'}', b']', 0xFF] {
                let mut bytes = whole.clone();
                bytes[place] = value;
                std::fs::write(&path, bytes).unwrap();
                if let Ok(file) = TensorFile::open(&path) {
                    assert!(file.names().all(|name| file.bytes(name).is_ok()));
                }
            }
        }
    }

    #[test]
    fn other_formats_are_named() {
        assert!(error_of(b"version https://git-lfs.github.com/spec/v1\n").to_string().contains("git lfs pull"));
        assert!(error_of(b"PK\x03\x04 and more bytes").to_string().contains("convert it"));
        assert!(error_of(b"<!doctype html><html>").to_string().contains("web page"));
    }

    #[test]
    fn a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(TensorFile::open(folder.path()), Err(CheckpointError::NotAFile { .. })));
    }
}
