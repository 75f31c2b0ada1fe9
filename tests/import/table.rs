//! The table of options has those of the two parsers and no others.

use sd3pipe::import::options::{OPTIONS, Takes, Trainer};
use std::collections::BTreeMap;

/// What tools/sd_scripts/options.py found: trainer, name, values, default.
const FOUND: &str = include_str!("options.txt");

#[test]
fn the_table_has_every_option_of_the_parsers_with_its_values_and_no_other() {
    let mut parsers: BTreeMap<&str, (Vec<&str>, &str)> = BTreeMap::new();
    for line in FOUND.lines().filter(|line| !line.starts_with('#')) {
        let [trainer, name, values] = line.splitn(4, ' ').take(3).collect::<Vec<_>>()[..] else { panic!("{line}") };
        let entry = parsers.entry(name).or_insert((Vec::new(), values));
        entry.0.push(trainer);
        assert_eq!(entry.1, values, "{name} takes the same in both");
    }
    let of_parsers: Vec<_> = parsers
        .into_iter()
        .map(|(name, (trainers, values))| {
            let trainer = match trainers[..] {
                ["full"] => Trainer::Full,
                ["lora"] => Trainer::Lora,
                _ => Trainer::Both,
            };
            let takes = match values {
                "0" => Takes::Nothing,
                "1" => Takes::One,
                "*" => Takes::Several,
                other => panic!("{name} takes {other}"),
            };
            (name, trainer, takes)
        })
        .collect();
    let of_table: Vec<_> = OPTIONS.iter().map(|option| (option.name, option.trainer, option.takes)).collect();
    assert!(of_parsers.len() > 200, "{}", of_parsers.len());
    assert_eq!(of_table, of_parsers);
}
