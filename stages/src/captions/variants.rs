//! The texts that are made of a caption: what is drawn among its choices and tags, and what is put around it.

use super::parameters::{Captions, Dataset, Shuffle};
use crate::random::Draws;
use std::collections::HashSet;

/// Stands in a caption where the word goes that calls what is learnt.
const TRIGGER: &str = "[trigger]";

/// The texts of an image with these captions, all different, at least one, in the order in which they first come up. There are
/// as many for each caption as `shuffle` or `wildcards` says, or just one. Each is made in this order:
///
/// 1. of each `{a|b}` in prefix, caption and suffix one choice is taken;
/// 2. the caption is cut into tags; those that do not stay are shuffled, and some of them dropped; they are joined by `", "` if
///    the separator is `","`, and by the separator as it is if it is another one;
/// 3. what stands for secondary separators becomes that too;
/// 4. the trigger word is put in its place;
/// 5. prefix and suffix are put around it.
///
/// sd-scripts (`BaseDataset.process_caption`) does the last first, so that a prefix counts as tags. Here what is put in front stays
/// in front. Caption dropout, its second step, is the training's.
///
/// Text `i` of a caption is a function of the caption and `i` alone, so that asking for more keeps those that there are, and
/// neither an item's name nor other captions have a say in it.
pub fn texts(captions: &[String], dataset: &Dataset, parameters: &Captions) -> Vec<String> {
    let prefix = dataset.prefix.as_deref().unwrap_or(&parameters.prefix);
    let suffix = dataset.suffix.as_deref().unwrap_or(&parameters.suffix);
    let joint = if parameters.separator == "," { ", " } else { &parameters.separator };
    let drawn = [
        parameters.shuffle.as_ref().map(|shuffle| shuffle.variants),
        parameters.wildcards.as_ref().map(|wildcards| wildcards.variants),
    ];
    let count = drawn.into_iter().flatten().max().unwrap_or(1);
    let captions = if captions.is_empty() { &[String::new()] } else { captions };
    let mut seen = HashSet::new();
    let mut texts = Vec::new();
    for caption in captions {
        let parts = [prefix, caption, suffix];
        let choices = parameters.wildcards.as_ref().map(|_| parts.map(cut));
        for variant in 0..count {
            let [prefix, caption, suffix] = match &choices {
                Some(cut) => choose(cut, variant, count, &parts),
                None => parts.map(str::to_owned),
            };
            let caption = match &parameters.shuffle {
                Some(shuffle) => shuffled(&caption, variant, &parameters.separator, joint, shuffle),
                None => caption,
            };
            let text = compose(&with_trigger(caption, &dataset.trigger, joint), &prefix, &suffix);
            if seen.insert(text.clone()) {
                texts.push(text);
            }
        }
    }
    texts
}

/// A piece of a text: one of these, as they stand there; just one where there is no choice.
type Piece = Vec<String>;

/// Cuts a text at its choices. A brace that is never closed, or closed at once, is a letter like others.
fn cut(text: &str) -> Vec<Piece> {
    let (mut pieces, mut plain, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find(['{', '}']) {
        let (before, brace) = rest.split_at(at);
        plain.push_str(before);
        let doubled = brace.starts_with("{{") || brace.starts_with("}}");
        let closed =
            brace.strip_prefix('{').and_then(|inside| inside.split_once('}')).filter(|(inside, _)| !inside.is_empty());
        rest = match closed {
            Some((inside, after)) if !doubled => {
                pieces.push(vec![std::mem::take(&mut plain)]);
                pieces.push(inside.split('|').map(str::to_owned).collect());
                after
            }
            _ => {
                plain.push_str(&brace[..1]);
                &brace[if doubled { 2 } else { 1 }..]
            }
        };
    }
    plain.push_str(rest);
    pieces.push(vec![plain]);
    pieces
}

/// One choice of each: all ways in their order, the last choice moving fastest, if these are no more than `count`, else one that
/// is drawn.
fn choose(cut: &[Vec<Piece>; 3], variant: u32, count: u32, parts: &[&str; 3]) -> [String; 3] {
    let ways = cut.iter().flatten().fold(1_u64, |ways, piece| ways.saturating_mul(piece.len() as u64));
    let mut draws = Draws::new(0, "caption wildcards", u64::from(variant), &parts.join("\n"));
    let (mut way, mut later) = (u64::from(variant) % ways, ways);
    let mut choice = |piece: &Piece| {
        let options = piece.len() as u64;
        let index = if ways <= u64::from(count) {
            later /= options;
            let index = way / later;
            way %= later;
            index
        } else {
            draws.below(options)
        };
        piece[index as usize].clone()
    };
    [0, 1, 2].map(|part: usize| cut[part].iter().map(&mut choice).collect::<String>().trim().to_owned())
}

/// Cuts at a separator; tags are trimmed, and empty ones are left out.
fn tags<'t>(text: &'t str, separator: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(separator).map(str::trim).filter(|tag| !tag.is_empty())
}

fn shuffled(caption: &str, variant: u32, separator: &str, joint: &str, shuffle: &Shuffle) -> String {
    let Shuffle { keep_tokens_separator, secondary_separator, .. } = shuffle;
    let kept_apart =
        if keep_tokens_separator.is_empty() { None } else { caption.split_once(keep_tokens_separator.as_str()) };
    let (mut first, mut moving, mut last): (Vec<&str>, Vec<&str>, Vec<&str>);
    match kept_apart {
        Some((front, rest)) => {
            let (middle, end) = rest.split_once(keep_tokens_separator.as_str()).unwrap_or((rest, ""));
            (first, moving, last) =
                (tags(front, separator).collect(), tags(middle, separator).collect(), tags(end, separator).collect());
        }
        None => {
            first = tags(caption, separator).collect();
            moving = first.split_off(first.len().min(shuffle.keep_tokens as usize));
            last = Vec::new();
        }
    }
    let draws = |stream| Draws::new(0, stream, u64::from(variant), caption);
    if shuffle.reorder {
        draws("caption variants").shuffle(&mut moving);
    }
    if shuffle.tag_dropout > 0.0 {
        let mut draws = draws("caption tag dropout");
        moving.retain(|_| draws.uniform() >= shuffle.tag_dropout);
    }
    first.append(&mut moving);
    first.append(&mut last);
    let text = first.join(joint);
    match secondary_separator.as_str() {
        "" => text,
        secondary => tags(&text, secondary).collect::<Vec<_>>().join(joint),
    }
}

/// Puts the trigger word where the caption says, or in front of a caption that does not have it as words of its own.
fn with_trigger(caption: String, trigger: &str, joint: &str) -> String {
    if trigger.is_empty() {
        return caption;
    }
    if caption.contains(TRIGGER) {
        return caption.replace(TRIGGER, trigger);
    }
    let in_a_word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    let mut places = caption.match_indices(trigger).map(|(at, found)| (&caption[..at], &caption[at + found.len()..]));
    if places.any(|(before, after)| !in_a_word(before.chars().next_back()) && !in_a_word(after.chars().next())) {
        return caption;
    }
    let parts: Vec<&str> = [trigger, &caption].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(joint)
}

/// `prefix + " " + caption + " " + suffix`, of the parts that are not empty (sd-scripts' `process_caption`, its first step).
fn compose(caption: &str, prefix: &str, suffix: &str) -> String {
    let parts: Vec<&str> = [prefix, caption, suffix].into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::parameters::Wildcards;
    use super::*;

    fn made(caption: &str, parameters: &Captions) -> Vec<String> {
        texts(&[caption.to_owned()], &Dataset::default(), parameters)
    }

    fn variants(caption: &str, separator: &str, shuffle: Shuffle) -> Vec<String> {
        let separator = separator.to_owned();
        made(caption, &Captions { separator, shuffle: Some(shuffle), ..Captions::default() })
    }

    fn of(variants: u32, keep_tokens: u32) -> Shuffle {
        Shuffle { variants, keep_tokens, ..Shuffle::default() }
    }

    fn wild(caption: &str, variants: u32) -> Vec<String> {
        made(caption, &Captions { wildcards: Some(Wildcards { variants }), ..Captions::default() })
    }

    fn around(prefix: &str, suffix: &str) -> Captions {
        Captions { prefix: prefix.to_owned(), suffix: suffix.to_owned(), ..Captions::default() }
    }

    #[test]
    fn prefix_and_suffix_have_a_space_only_beside_something() {
        assert_eq!(made("a dog", &around("photo of", "at dusk")), ["photo of a dog at dusk"]);
        assert_eq!(made("a dog", &around("", "")), ["a dog"]);
        assert_eq!(made("", &around("photo", "")), ["photo"]);
        assert_eq!(made("", &around("", "")), [""]);
    }

    #[test]
    fn a_dataset_may_have_a_prefix_and_a_suffix_of_its_own() {
        let dataset = Dataset { prefix: Some(String::new()), suffix: Some("at noon".to_owned()), ..Dataset::default() };
        assert_eq!(texts(&["a dog".to_owned()], &dataset, &around("photo of", "at dusk")), ["a dog at noon"]);
    }

    #[test]
    fn without_anything_to_draw_a_caption_is_left_alone() {
        assert_eq!(made("a,  {b|c},,[trigger]", &Captions::default()), ["a,  {b|c},,[trigger]"]);
    }

    #[test]
    fn variants_are_pinned_for_ever() {
        let texts = variants("sks style, lighthouse, dusk, sea, rocks", ",", of(3, 1));
        let expected = [
            "sks style, lighthouse, sea, dusk, rocks",
            "sks style, rocks, lighthouse, dusk, sea",
            "sks style, sea, lighthouse, rocks, dusk",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn kept_tags_stay_in_front_and_no_tag_is_lost() {
        let texts = variants("one,two , a,b,,c,d", ",", of(20, 2));
        assert!(texts.len() > 10);
        for text in &texts {
            assert!(text.starts_with("one, two, "), "{text}");
            let mut tags: Vec<&str> = text.split(", ").collect();
            tags.sort_unstable();
            assert_eq!(tags, ["a", "b", "c", "d", "one", "two"]);
        }
    }

    #[test]
    fn more_variants_begin_with_the_fewer() {
        let texts = |count| variants("a,b,c,d,e", ",", of(count, 0));
        assert_eq!(texts(16)[..4], texts(4));
    }

    #[test]
    fn equal_variants_appear_once() {
        assert_eq!(variants("a,b", ",", of(50, 0)).len(), 2);
        assert_eq!(variants("a sentence", ",", of(50, 0)), ["a sentence"]);
        assert_eq!(variants("", ",", of(50, 0)), [""]);
        assert_eq!(variants("a,b,c", ",", of(50, 9)), ["a, b, c"]);
        let lines = ["a,b", "b,a", "c"].map(str::to_owned);
        let parameters = Captions { shuffle: Some(of(50, 0)), ..Captions::default() };
        let mut all = texts(&lines, &Dataset::default(), &parameters);
        all.sort_unstable();
        assert_eq!(all, ["a, b", "b, a", "c"]);
    }

    #[test]
    fn another_separator_joins_as_it_is_written() {
        assert_eq!(variants("a|b", "|", of(9, 1)), ["a|b"]);
        assert_eq!(variants("a ; b", " ; ", of(9, 1)), ["a ; b"]);
    }

    #[test]
    fn prefix_and_suffix_are_not_shuffled() {
        let parameters = Captions { shuffle: Some(of(6, 0)), ..around("photo, of", "x, y") };
        for text in made("a,b,c", &parameters) {
            assert!(text.starts_with("photo, of ") && text.ends_with(" x, y"), "{text}");
        }
    }

    #[test]
    fn tags_before_and_after_the_separators_for_them_stay() {
        let shuffle = Shuffle { keep_tokens_separator: "|||".to_owned(), ..of(50, 3) };
        let texts = variants("sks, dog ||| park, sun || | red||| best, quality", ",", shuffle.clone());
        assert_eq!(texts.len(), 2);
        for text in &texts {
            assert!(
                ["sks, dog, park, sun || | red, best, quality", "sks, dog, sun || | red, park, best, quality"]
                    .contains(&&**text)
            );
        }
        let mut front = variants("sks|||a,b", ",", shuffle.clone());
        front.sort_unstable();
        assert_eq!(front, ["sks, a, b", "sks, b, a"]);
        // Without one of them it goes by the number.
        assert_eq!(variants("a,b,c", ",", shuffle), ["a, b, c"]);
    }

    #[test]
    fn tags_that_belong_together_move_together() {
        let shuffle = Shuffle { secondary_separator: ";;".to_owned(), ..of(50, 0) };
        let mut texts = variants("red hat;; blue coat, sun", ",", shuffle);
        texts.sort_unstable();
        assert_eq!(texts, ["red hat, blue coat, sun", "sun, red hat, blue coat"]);
    }

    #[test]
    fn tags_drop_out_as_often_as_asked_and_kept_ones_never() {
        let dropping = |share, reorder| Shuffle { tag_dropout: share, reorder, ..of(1000, 1) };
        let caption = "sks,a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t";
        let texts = variants(caption, ",", dropping(0.25, false));
        // A thousand that are drawn are nearly all different: two are alike with a chance of (0.25² + 0.75²)^20, one in 12,000.
        assert!(texts.len() > 920, "{}", texts.len());
        let kept: usize = texts.iter().map(|text| text.split(", ").count() - 1).sum();
        let share = kept as f64 / (20 * texts.len()) as f64;
        assert!((share - 0.75).abs() < 0.015, "{share}");
        for text in &texts {
            assert!(text.starts_with("sks"), "{text}");
            assert!(text.split(", ").skip(1).is_sorted(), "{text}");
        }
        assert_eq!(variants(caption, ",", dropping(1.0, true)), ["sks"]);
        assert_eq!(variants("a,b", ",", Shuffle { tag_dropout: 1.0, ..of(2, 0) }), [""]);
        // Dropping tags leaves the orders of those that stay.
        assert_eq!(variants(caption, ",", dropping(0.0, true)), variants(caption, ",", of(1000, 1)));
    }

    #[test]
    fn all_choices_come_up_if_there_is_room_for_them() {
        assert_eq!(wild("a {red|blue} door", 8), ["a red door", "a blue door"]);
        assert_eq!(wild("{a|b} and {c|d|e}", 6), ["a and c", "a and d", "a and e", "b and c", "b and d", "b and e"]);
        assert_eq!(wild("a {big |}dog", 2), ["a big dog", "a dog"]);
        assert_eq!(wild("{ a|b }", 2), ["a", "b"]);
        assert_eq!(wild("no choice", 8), ["no choice"]);
        let parameters = Captions { wildcards: Some(Wildcards { variants: 8 }), ..around("{photo|picture} of", "") };
        assert_eq!(made("{a|b}", &parameters), ["photo of a", "photo of b", "picture of a", "picture of b"]);
    }

    #[test]
    fn some_of_many_choices_are_drawn_for_ever_alike() {
        let caption = "{a|b|c} {d|e|f} {g|h|i}";
        let few = wild(caption, 4);
        assert_eq!(few, ["b e i", "c d g", "b d h", "a f i"]);
        assert_eq!(wild(caption, 20)[..few.len()], few);
        assert_eq!(wild(caption, 27).len(), 27);
    }

    #[test]
    fn braces_that_are_no_choice_stay() {
        assert_eq!(wild("a {{b|c}} d", 8), ["a {b|c} d"]);
        assert_eq!(wild("a {} b } c { d", 8), ["a {} b } c { d"]);
        assert_eq!(wild("{one}", 8), ["one"]);
        assert_eq!(wild("{é|ü}{", 8), ["é{", "ü{"]);
        assert_eq!(wild("", 8), [""]);
    }

    #[test]
    fn choices_are_taken_before_tags_are_shuffled() {
        let wildcards = Some(Wildcards { variants: 40 });
        let parameters = Captions { wildcards, shuffle: Some(of(2, 1)), ..Captions::default() };
        let mut texts = made("{sks, red|sks, blue}, dog", &parameters);
        texts.sort_unstable();
        assert_eq!(texts, ["sks, blue, dog", "sks, dog, blue", "sks, dog, red", "sks, red, dog"]);
    }

    #[test]
    fn a_trigger_word_is_put_where_it_belongs() {
        let dataset = Dataset { trigger: "sks".to_owned(), ..Dataset::default() };
        let text = |caption: &str| texts(&[caption.to_owned()], &dataset, &around("photo of", "")).concat();
        assert_eq!(text("a dog"), "photo of sks, a dog");
        assert_eq!(text("a [trigger] dog, [trigger]"), "photo of a sks dog, sks");
        assert_eq!(text("a sks dog"), "photo of a sks dog");
        assert_eq!(text("two desks"), "photo of sks, two desks");
        assert_eq!(text("desks, sks."), "photo of desks, sks.");
        assert_eq!(text(""), "photo of sks");
        let shuffled = Captions { shuffle: Some(of(20, 0)), ..Captions::default() };
        assert!(texts(&["a,b,c".to_owned()], &dataset, &shuffled).iter().all(|text| text.starts_with("sks, ")));
    }
}
