//! A caption file with the parameters of its stage: the caption, its texts, and CLIP's ids of these.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sd3pipe_fuzz::parts;
use sd3pipe_stages::{
    captions::{
        Captions,
        caption::{all_lines, further_lines, normalise},
        parameters::{Dataset, Shuffle, Wildcards},
        variants::texts,
    },
    text::tokenizer::{CLIP_LENGTH, ClipPad, ClipTokenizer},
};
use std::sync::LazyLock;

static CLIP: LazyLock<ClipTokenizer> = LazyLock::new(ClipTokenizer::built_in);

fuzz_target!(|data: &[u8]| {
    let Some((&[variants, keep], data)) = data.split_first_chunk::<2>() else { return };
    let mut parts = parts(data);
    let bytes = parts.next().unwrap_or_default();
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let shuffle = Shuffle {
        variants: u32::from(variants),
        keep_tokens: u32::from(keep % 8),
        keep_tokens_separator: text(),
        secondary_separator: text(),
        tag_dropout: f64::from(keep / 64) / 4.0,
        ..Shuffle::default()
    };
    let dataset = Dataset { path: "photos".into(), name: text(), trigger: text(), ..Dataset::default() };
    let parameters = Captions {
        separator: text(),
        prefix: text(),
        suffix: text(),
        extensions: vec![text()],
        data: vec![dataset.clone()],
        wildcards: (keep & 16 != 0).then(|| Wildcards { variants: 1 + u32::from(keep & 15) }),
        shuffle: (variants > 0).then_some(shuffle),
        ..Captions::default()
    };
    let sound = parameters.problems().is_empty();
    let Ok(caption) = normalise(bytes) else {
        assert!(further_lines(bytes).is_err());
        return;
    };
    assert!(!caption.contains(['\n', '\r']) && caption.trim() == caption);
    assert!(further_lines(bytes).is_ok());
    if sound {
        let captions = all_lines(bytes).unwrap_or_else(|_| vec![caption]);
        let texts = texts(&captions, &dataset, &parameters);
        assert!((1..=usize::from(variants).max(16) * captions.len().max(1)).contains(&texts.len()));
        for text in texts.iter().take(2) {
            let tokens = CLIP.encode(text, ClipPad::Zero).expect("the built-in vocabulary takes every text");
            assert_eq!(tokens.ids.len(), CLIP_LENGTH);
        }
    }
});
