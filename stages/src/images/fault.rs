//! What can be wrong with an image file.

use thiserror::Error;

/// Why an image file can't be trained on. The text has neither the file's name nor a period: who knows the name adds it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImageFault {
    /// The first bytes are those of no format that is read.
    #[error("is no image: its content is neither PNG, JPEG, WebP nor BMP, whatever its name says")]
    UnknownFormat,
    /// The file ends before the image does. Decoders fill up the rest with grey, or fail.
    #[error("ends too early for a {format}: it was cut short, or its inside is damaged")]
    CutShort {
        /// The format that its first bytes name.
        format: &'static str,
    },
    /// The decoder gave up.
    #[error("cannot be decoded: {what}")]
    Broken {
        /// The decoder's message.
        what: String,
    },
    /// Decoding would take more memory than an image is worth.
    #[error("is too large: {what}")]
    TooLarge {
        /// What the limit is and how far the image is beyond it.
        what: String,
    },
    /// A side is shorter than one patch of the network.
    #[error("is too small: {width} × {height} pixels, and a side must have {} at least", super::decode::SHORTEST_SIDE)]
    TooSmall {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// Nothing of a mask is left in the part of the image that is trained.
    #[error("masks everything: all of it is black or transparent where its image is trained")]
    AllMasked,
    /// A side is shorter than a bucket's step, and enlarging is forbidden.
    #[error("is too small: {width} × {height} pixels do not fill a bucket of step {step}")]
    SmallerThanStep {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The step of the buckets' sides.
        step: u32,
    },
}

impl ImageFault {
    /// What to do about it; equal for faults of one kind.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::UnknownFormat => "convert it to PNG or JPEG, or move it out of the folder",
            Self::CutShort { .. } => "copy or download it again, or open it and save it anew",
            Self::Broken { .. } => "open it in an image editor and save it anew, or move it out of the folder",
            Self::TooLarge { .. } => "make it smaller: training scales it down in any case",
            Self::TooSmall { .. } => "move it out of the folder: it is too small to learn from",
            Self::AllMasked => "paint white what is to be learnt, or move the image out of the folder",
            Self::SmallerThanStep { .. } => {
                "move it out of the folder, choose a smaller `step`, or allow it with upscale: true"
            }
        }
    }
}
