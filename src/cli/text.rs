//! Numbers, times and columns as people read them, and sizes and ages as they write them.

use std::time::Duration;

/// `1,234,567`.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `0.4 s`, `12 s`, `3 min 20 s`, `5 h 12 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// `0 bytes`, `1023 bytes`, `1.5 KiB`, `12 GiB`.
pub fn size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB"] {
        if amount < 1023.5 {
            return if unit == "bytes" || amount >= 9.95 {
                format!("{amount:.0} {unit}")
            } else {
                format!("{amount:.1} {unit}")
            };
        }
        amount /= 1024.0;
    }
    format!("{amount:.1} TiB")
}

/// Reads what [`size`] writes, and `50GB`, `1.5TiB`, `4096`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let units = [("B", 0), ("KB", 3), ("MB", 6), ("GB", 9), ("TB", 12)].map(|(unit, zeros)| (unit, 10_f64.powi(zeros)));
    let binary = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)].map(|(unit, bits)| (unit, 2_f64.powi(bits)));
    let all = [("", 1.0), ("bytes", 1.0)].into_iter().chain(units).chain(binary);
    amount(text, all)
        .map(|bytes| bytes as u64)
        .ok_or_else(|| format!("`{text}` is no size: give one as `50GiB` or `800MB`"))
}

/// Reads an age: `90s`, `45min`, `12h`, `30d`, `2w`.
pub fn parse_age(text: &str) -> Result<Duration, String> {
    let units = [("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0)];
    let age = amount(text, units.into_iter()).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    age.ok_or_else(|| format!("`{text}` is no age: give one as `30d`, `12h` or `2w`"))
}

/// A number that is not negative, times what its unit stands for.
fn amount<'u>(text: &str, mut units: impl Iterator<Item = (&'u str, f64)>) -> Option<f64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    Some(number.parse::<f64>().ok()? * factor)
}

/// The text with every character that a terminal would obey, other than a line's end, spelt as JSON spells it: names of files,
/// captions and the store's records may be anybody's. JSON stays the same JSON.
pub fn safe(text: &str) -> String {
    // The last are those that turn the direction of writing around.
    let obeyed = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && obeyed(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// As [`safe`], for what must not begin a line of its own.
pub fn one_line(text: &str) -> String {
    safe(text).replace('\n', "\\n")
}

const WIDEST: usize = 100;

/// Rows of cells in columns as wide as they need to be.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    // A cell that is longer pushes what follows it: better than a column as wide as a caption.
    let width = |column: usize| {
        let longest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        longest.unwrap_or_default().min(WIDEST)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}   ")).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One or many: `1 epoch`, `2 epochs`.
pub fn units(number: usize, plural: &str) -> String {
    let unit = if number == 1 { plural.strip_suffix('s').unwrap_or(plural) } else { plural };
    format!("{} {unit}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_readable() {
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(duration(0.42), "0.4 s");
        assert_eq!(duration(61.0), "61 s");
        assert_eq!(duration(200.0), "3 min 20 s");
        assert_eq!(duration(18_720.0), "5 h 12 min");
        assert_eq!([units(1, "epochs"), units(2, "epochs")], ["1 epoch", "2 epochs"]);
    }

    #[test]
    fn sizes_and_ages_are_written_and_read() {
        assert_eq!(
            [size(0), size(1023), size(1536), size(12 << 30), size(3 << 40)].join(", "),
            "0 bytes, 1023 bytes, 1.5 KiB, 12 GiB, 3.0 TiB"
        );
        for bytes in [0, 7, 1536, 12 << 30, 3 << 40] {
            assert_eq!(parse_size(&size(bytes)), Ok(bytes));
        }
        assert_eq!(
            [parse_size("50GB"), parse_size("1.5kib"), parse_size("4096")],
            [Ok(50_000_000_000), Ok(1536), Ok(4096)]
        );
        for wrong in ["", "GiB", "-1GiB", "5 apples", "1.2.3MB"] {
            assert!(parse_size(wrong).unwrap_err().contains("50GiB"), "{wrong}");
        }
        assert_eq!(parse_age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_age("1.5h"), Ok(Duration::from_secs(5400)));
        for wrong in ["30", "d", "-3d", "99999999999999999999w"] {
            assert!(parse_age(wrong).unwrap_err().contains("30d"), "{wrong}");
        }
    }

    #[test]
    fn a_terminal_obeys_nothing_that_is_shown() {
        assert_eq!(
            safe("a\u{1b}[2J\r\nb\u{9b}31m\u{7f}\t\u{202e}é"),
            "a\\u001b[2J\\u000d\nb\\u009b31m\\u007f\\u0009\\u202eé"
        );
        assert_eq!(table(&[vec!["a\nerror: b".to_owned(), "c".to_owned()]]), "a\\nerror: b   c\n");
        let json = serde_json::json!("a\u{1b}\u{9b}\u{7f}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe(&json.to_string())).unwrap(), json);
    }

    #[test]
    fn columns_line_up_and_lines_end_where_they_end() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(&rows), "a     bb\nccc   d\n");
    }
}
