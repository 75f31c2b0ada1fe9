//! A keyed unit of work, and what units of work make together.

use sd3pipe_cache::{Common, Digest, Key, KeyError, Object, Output, Preimage, Record};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One thing to make: a text's encoding, an image's latents, an epoch's weights.
#[derive(Clone, Debug)]
pub struct Action {
    /// What a person calls it: `photos/0042.png`, `epoch 3`.
    pub label: String,
    /// The digest of all that it reads.
    pub key: Key,
    /// What it reads of its own, on one line: of a million actions there is no room for trees of values.
    own: Box<str>,
    /// What it reads beside that, as others do.
    common: Option<Arc<Common>>,
}

impl Action {
    /// An action with its key taken.
    pub fn new(label: impl Into<String>, preimage: Preimage) -> Self {
        let key = preimage.key();
        Self { label: label.into(), key, own: preimage.to_json().into(), common: None }
    }

    /// One of many that read what is `common`, and each its `own`.
    ///
    /// # Errors
    /// A name that both have.
    pub fn among(label: impl Into<String>, common: &Arc<Common>, own: &Preimage) -> Result<Self, KeyError> {
        let (key, common) = (common.key(own)?, Some(Arc::clone(common)));
        Ok(Self { label: label.into(), key, own: own.to_json().into(), common })
    }

    /// What the store keeps of it once it is done.
    ///
    /// # Errors
    /// None that is known: what it reads was written by the one who reads it here.
    pub fn record(&self, outputs: Vec<Output>, seconds: f64) -> Result<Record, KeyError> {
        let own = Preimage::from_json(&self.own)?;
        let preimage = self.common.as_ref().map_or_else(|| own.clone(), |common| common.with(own.clone()));
        Ok(Record { preimage, label: self.label.clone(), outputs, seconds })
    }
}

/// One object among those that a stage made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is: `text`, `latents`, `weights`, `checkpoint`, `image`, `sheet`.
    pub role: String,
    /// What it is of: the text itself, an image's id, an epoch.
    pub item: String,
    /// The object.
    pub digest: Digest,
    /// Its bytes.
    pub length: u64,
    /// The digest of the part that readers depend on, where that is less than the object: a checkpoint's tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
    /// Width and height in pixels, of what has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(u32, u32)>,
}

/// All that a stage made, in the order of its actions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// The objects.
    pub entries: Vec<Entry>,
}

impl Artifact {
    /// The bytes that the store keeps: equal for equal artifacts.
    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// Reads them again.
    pub fn from_bytes(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// Adds what an action put out, except roles that only the same stage reads again.
    pub fn extend(&mut self, outputs: &[Output], private: &[&str]) {
        let public = outputs.iter().filter(|output| !private.contains(&output.role.as_str()));
        self.entries.extend(public.map(|output| Entry {
            role: output.role.clone(),
            item: output.item.clone(),
            digest: output.digest,
            length: output.length,
            content: output.content,
            size: None,
        }));
    }

    /// The entries of one role.
    pub fn of<'a>(&'a self, role: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.role == role)
    }
}

/// An output of an action.
pub fn output(role: &str, item: impl Into<String>, object: Object) -> Output {
    Output { role: role.to_owned(), item: item.into(), digest: object.digest, length: object.length, content: None }
}
