//! Numbers, times and columns as people read them.

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
