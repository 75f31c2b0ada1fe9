//! Tokenizers' files, for CLIP and for T5, and then texts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sd3pipe_fuzz::{file, parts};
use sd3pipe_stages::text::tokenizer::{CLIP_LENGTH, ClipPad, ClipTokenizer, T5Tokenizer, panics_are_caught};

const TEXTS: [&str; 4] =
    ["", "a  photo of sks dog's, 灯台 ｆull <|endoftext|></s>", "aaaaaaaaaaaaaaaabababab   ", "\u{0}é\u{301}<pad>"];

/// As the program does: panics of the tokenizers' library become errors. All others end the target.
fn keep_caught_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panics_are_caught() {
            usual(panic);
        }
    }));
}

fuzz_target!(init: keep_caught_panics(), |data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let start = String::from_utf8_lossy(&data[..data.len().min(48)]).into_owned();
    let texts = TEXTS.into_iter().chain([start.as_str()]);
    let clip = match kind % 3 {
        0 => ClipTokenizer::open(&file("tokenizer.json", data)),
        1 => {
            let mut parts = parts(data);
            file("pair/vocab.json", parts.next().unwrap_or_default());
            ClipTokenizer::open(&file("pair/merges.txt", parts.next().unwrap_or_default()))
        }
        _ => {
            let Ok(t5) = T5Tokenizer::open(&file("t5", data)) else { return };
            for text in texts {
                if let Ok(tokens) = t5.encode(text, 8) {
                    assert_eq!(tokens.ids.len(), 8);
                }
            }
            return;
        }
    };
    let Ok(clip) = clip else { return };
    for text in texts {
        if let Ok(tokens) = clip.encode(text, ClipPad::EndOfText) {
            assert_eq!(tokens.ids.len(), CLIP_LENGTH);
        }
    }
});
