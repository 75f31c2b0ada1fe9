//! Patterns over the names of tensors.

/// Whether `pattern` is a pattern of `name`. `*` stands for any text, dots included, and `0-11` between dots for the numbers from 0
/// to 11; everything else stands for itself: `joint_blocks.0-11.*.attn.*`.
pub fn matches(pattern: &str, name: &str) -> bool {
    // All places up to which the steps so far may reach: no pattern takes longer than its length times the name's.
    let mut places = vec![0];
    for (index, segment) in pattern.split('.').enumerate() {
        if index > 0 {
            places.retain_mut(|place| after(name, place, "."));
        }
        if let Some((first, last)) = numbers(segment) {
            places.retain_mut(|place| {
                let digits = name[*place..].bytes().take_while(u8::is_ascii_digit).count();
                let number = name[*place..*place + digits].parse::<u64>();
                *place += digits;
                number.is_ok_and(|number| (first..=last).contains(&number))
            });
            continue;
        }
        for (index, text) in segment.split('*').enumerate() {
            if index > 0 {
                let first = places.iter().min().copied();
                places = first.map_or(Vec::new(), |first| {
                    (first..=name.len()).filter(|place| name.is_char_boundary(*place)).collect()
                });
            }
            places.retain_mut(|place| after(name, place, text));
        }
    }
    places.contains(&name.len())
}

fn after(name: &str, place: &mut usize, text: &str) -> bool {
    let found = name[*place..].starts_with(text);
    *place += if found { text.len() } else { 0 };
    found
}

fn numbers(segment: &str) -> Option<(u64, u64)> {
    let (first, last) = segment.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Some of the names that the longest beginning of a pattern leads to, for a pattern that leads to none.
pub fn nearest<'n>(pattern: &str, names: &[&'n str]) -> Vec<&'n str> {
    let beginnings = (0..=pattern.len()).rev().filter_map(|end| pattern.get(..end));
    let mut led = beginnings.map(|beginning| {
        let open = format!("{beginning}*");
        names.iter().copied().filter(|name| matches(&open, name)).take(3).collect::<Vec<_>>()
    });
    led.find(|names| !names.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "joint_blocks.11.x_block.attn.qkv.weight";

    #[test]
    fn stars_and_numbers_match_and_everything_else_is_itself() {
        for pattern in
            ["*", NAME, "joint_blocks.0-11.*", "joint_blocks.11-11.*.weight", "*.attn.*", "joint*x_block*", "*.qkv.*ht"]
        {
            assert!(matches(pattern, NAME), "{pattern}");
        }
        for pattern in
            ["", "joint_blocks.0-10.*", "joint_blocks.1.*", "joint_blocks", "*.attn", "*.bias", "joint_blocks.1-1*"]
        {
            assert!(!matches(pattern, NAME), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        assert!(!matches(&"*a".repeat(10_000), &"a".repeat(200)));
    }

    #[test]
    fn the_nearest_names_follow_the_pattern_as_far_as_it_goes() {
        let names = ["context_embedder.bias", NAME, "joint_blocks.3.x_block.mlp.fc1.bias", "x_embedder.proj.bias"];
        assert_eq!(nearest("joint_blocks.0-9.x_blok.*", &names), ["joint_blocks.3.x_block.mlp.fc1.bias"]);
        assert_eq!(nearest("joint_block.*", &names), names[1..3]);
        assert_eq!(nearest("?", &names), names[..3]);
    }
}
