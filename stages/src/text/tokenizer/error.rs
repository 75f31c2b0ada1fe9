//! What can be wrong with a tokenizer, and what to do about it.

use std::io;
use std::path::PathBuf;

/// A tokenizer that cannot be opened, or a text that it cannot encode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file could not be read.
    #[error("cannot read the tokenizer {}; hint: check the path and its permissions", path.display())]
    Read {
        /// The file that was asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The file is far larger than any tokenizer.
    #[error(
        "{} has {length} bytes, and no tokenizer is larger than {limit}; hint: this looks like a model's weights, \
         name its tokenizer instead",
        path.display()
    )]
    TooLarge {
        /// The file that was asked for.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
        /// The largest length that is read, in bytes.
        limit: u64,
    },

    /// A folder that holds none of the files that make a tokenizer.
    #[error("the folder {} has no tokenizer in it; hint: it needs {expected}", path.display())]
    EmptyFolder {
        /// The folder that was asked for.
        path: PathBuf,
        /// The files of which one set must be there.
        expected: &'static str,
    },

    /// The file is damaged or of another kind.
    #[error("{} is not a usable tokenizer: {reason}; hint: {hint}", path.display())]
    Malformed {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },

    /// A token that the text encoder cannot do without.
    #[error("{} has no token {token}; hint: is it the tokenizer of another network? {family} needs one", path.display())]
    MissingToken {
        /// The file at fault.
        path: PathBuf,
        /// The token that it lacks.
        token: &'static str,
        /// The text encoder that the tokenizer was opened for.
        family: &'static str,
    },

    /// CLIP pools at the largest id of a text, so the end of a text must be the largest of all.
    #[error(
        "{}: <|endoftext|> is {end}, but {token} is {largest}; hint: CLIP reads its pooled vector at the largest id, so \
         give each added token an id below the end's, or use the tokenizer without them",
        path.display()
    )]
    EndNotLargest {
        /// The file at fault.
        path: PathBuf,
        /// The id of `<|endoftext|>`.
        end: u32,
        /// The token with the largest id.
        token: String,
        /// Its id.
        largest: u32,
    },

    /// A token of T5 with an id that T5 was not trained on.
    #[error("{}: {token} is {found}, T5 was trained with {expected}; hint: use the tokenizer of T5 v1.1", path.display())]
    WrongId {
        /// The file at fault.
        path: PathBuf,
        /// The token.
        token: &'static str,
        /// The id that T5 knows it by.
        expected: u32,
        /// The id that the file gives it.
        found: u32,
    },

    /// The file asks for merges that are dropped at random.
    #[error("{} drops merges at random; hint: set its model's `dropout` to null, the ids must not depend on chance", path.display())]
    Random {
        /// The file at fault.
        path: PathBuf,
    },

    /// The tokenizer failed on a text.
    #[error("{} cannot encode {text:?}: {reason}; hint: the tokenizer's file contradicts itself, get a fresh copy", path.display())]
    Encode {
        /// The tokenizer's file.
        path: PathBuf,
        /// The text, as it was given.
        text: String,
        /// What the tokenizer said.
        reason: String,
    },

    /// Not even the end of a text fits.
    #[error(
        "cannot encode a text into 0 tokens; hint: give T5 at least 1, and 77 or 256 as the models were trained with"
    )]
    NoRoom,
}
