//! What was read from the data's files, remembered by their digests.

use super::data::{Digests, MEMO};
use sd3pipe_cache::{Digest, Key, Store};
use sd3pipe_stages::{
    captions::{caption, scan::Found},
    images::decode,
};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

/// What was read from files, by their digests, so that one edit reads one file.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Memo {
    /// Width and height by the image's digest.
    pub(super) sizes: HashMap<Digest, Known<(u32, u32)>>,
    /// The caption file's bytes, as far as they are used, by its digest.
    pub(super) captions: HashMap<Digest, Known<Box<str>>>,
}

/// What is known of a file.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Known<T> {
    value: T,
    /// Whether it was asked for. What was is told from what was not where it lies: a second map of a million would take its time, and its room.
    #[serde(skip)]
    used: Cell<bool>,
}

impl<T> Known<T> {
    /// What is known, used.
    pub(super) fn used(value: T) -> Self {
        Self { value, used: true.into() }
    }

    /// Uses it.
    pub(super) fn get(&self) -> &T {
        self.used.set(true);
        &self.value
    }
}

impl<T> From<T> for Known<T> {
    fn from(value: T) -> Self {
        Self { value, used: false.into() }
    }
}

impl Memo {
    /// One that has room for so many items without growing.
    pub(super) fn with_room(items: usize) -> Self {
        Self { sizes: HashMap::with_capacity(items), captions: HashMap::with_capacity(items) }
    }

    /// Forgets what nobody asked for.
    pub(super) fn keep_used(&mut self) {
        self.sizes.retain(|_, known| known.used.get());
        self.captions.retain(|_, known| known.used.get());
    }

    /// Adds what another knows.
    pub(super) fn add(&mut self, other: Self) {
        if self.sizes.is_empty() && self.captions.is_empty() {
            *self = other;
        } else {
            self.sizes.extend(other.sizes);
            self.captions.extend(other.captions);
        }
    }

    /// Reads an image file, and gives its digest. One that is too large, or no image, is left to who looks at it once more.
    pub(super) fn read_image(&mut self, file: &File) -> io::Result<Digest> {
        let Some((bytes, digest)) = read_up_to(file, decode::MOST_BYTES)? else {
            return Ok(Digest::of_reader(file)?.0);
        };
        self.sizes.extend(decode::probe(&bytes).ok().map(|size| (digest, size.into())));
        Ok(digest)
    }

    /// Reads a caption file, as [`read_image`](Self::read_image) does an image.
    pub(super) fn read_caption(&mut self, file: &File) -> io::Result<Digest> {
        let Some((bytes, digest)) = read_up_to(file, caption::LONGEST as u64)? else {
            return Ok(Digest::of_reader(file)?.0);
        };
        self.captions.extend(String::from_utf8(bytes).ok().map(|text| (digest, Box::<str>::from(text).into())));
        Ok(digest)
    }

    /// Adds what listings say of an item's files.
    pub(super) fn add_listed(&mut self, found: &Found, digests: &Digests) {
        let mask = found.mask.as_deref().map(|(_, seen)| seen).zip(digests.mask);
        let caption = found.caption_state.as_ref().zip(digests.caption);
        for (seen, digest) in [Some((&found.image_state, digests.image)), mask, caption].into_iter().flatten() {
            let Some(file) = seen.listed() else { continue };
            self.sizes.extend(file.size.map(|size| (digest, size.into())));
            self.captions.extend(file.text.clone().map(|text| (digest, Box::<str>::from(text).into())));
        }
    }

    pub(super) fn read(store: &Store, key: &Key) -> Option<Self> {
        let outputs = store.outputs(key).ok()??;
        let memo = outputs.iter().find(|output| output.role == MEMO)?;
        serde_json::from_slice(&store.read(&memo.digest).ok()?).ok()
    }
}

/// The bytes of a file of no more than `most`, and their digest.
fn read_up_to(file: &File, most: u64) -> io::Result<Option<(Vec<u8>, Digest)>> {
    let length = file.metadata()?.len();
    if length > most {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(length as usize + 1);
    let mut file = file;
    file.read_to_end(&mut bytes)?;
    let digest = Digest::of(&bytes);
    Ok(Some((bytes, digest)))
}

pub(super) const CHANGED: &str = "it changed while it was read; run again";

/// A file's bytes, which must be those that were hashed. Of a file with more than `most` there is one more, which is enough to know.
pub(super) fn read_as(path: &Path, digest: &Digest, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most || Digest::of(&bytes) == *digest { Ok(bytes) } else { Err(io::Error::other(CHANGED)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_kept_as_it_was_always_written() {
        let mut memo = Memo::with_room(2);
        let [one, other] = [b"one", b"two"].map(|bytes| Digest::of(bytes));
        memo.sizes.extend([(one, (640, 480).into()), (other, (1, 1).into())]);
        memo.captions.extend([(one, Box::<str>::from("a boat").into()), (other, Known::used("a lighthouse".into()))]);
        assert_eq!(*memo.sizes[&one].get(), (640, 480));
        memo.keep_used();
        let written = serde_json::json!({
            "sizes": { one.to_string(): [640, 480] },
            "captions": { other.to_string(): "a lighthouse" },
        });
        assert_eq!(serde_json::to_value(&memo).unwrap(), written);
        // What an earlier run knew is kept only if this one asks for it too.
        let mut read: Memo = serde_json::from_value(written).unwrap();
        assert_eq!(&**read.captions[&other].get(), "a lighthouse");
        read.keep_used();
        assert_eq!((read.sizes.len(), read.captions.len()), (0, 1));
    }
}
