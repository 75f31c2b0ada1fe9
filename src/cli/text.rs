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

const WIDEST: usize = 100;

/// Rows of cells in columns as wide as they need to be.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    // A cell that is longer pushes what follows it: better than a column as wide as a caption.
    let width = |column: usize| {
        let longest = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        longest.unwrap_or_default().min(WIDEST)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
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
    fn columns_line_up_and_lines_end_where_they_end() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(&rows), "a     bb\nccc   d\n");
    }
}
