//! The contact sheet: checkpoints from top to bottom, prompts from left to right.

use super::shrink;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const HEIGHT: RasterHeight = RasterHeight::Size20;
const MARGIN: usize = 12;
const GAP: usize = 4;

/// A sheet as RGB bytes with its size.
pub struct Sheet {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The pixels.
    pub rgb: Vec<u8>,
}

/// Lays out images, `rows.len() × columns.len()` of them in rows, each of `width × height` RGB pixels, under and beside their labels.
pub fn lay_out(rows: &[String], columns: &[String], images: &[Vec<u8>], (width, height): (usize, usize)) -> Sheet {
    let shrink = shrink(width);
    let (cell_width, cell_height) = (width / shrink, height / shrink);
    let letter = get_raster_width(FontWeight::Regular, HEIGHT);
    let left = MARGIN + rows.iter().map(|row| row.chars().count()).max().unwrap_or_default() * letter + MARGIN;
    let labels: Vec<Vec<String>> = columns.iter().map(|label| wrap(label, (cell_width / letter).max(1))).collect();
    let top = MARGIN + labels.iter().map(Vec::len).max().unwrap_or_default() * HEIGHT.val() + GAP;
    let sheet_width = left + columns.len() * (cell_width + GAP) + MARGIN;
    let sheet_height = top + rows.len() * (cell_height + GAP) + MARGIN;
    let mut canvas = Canvas { width: sheet_width, rgb: vec![255; sheet_width * sheet_height * 3] };
    for (column, label) in labels.iter().enumerate() {
        for (line, text) in label.iter().enumerate() {
            canvas.text(text, left + column * (cell_width + GAP), MARGIN + line * HEIGHT.val());
        }
    }
    for (row, label) in rows.iter().enumerate() {
        let y = top + row * (cell_height + GAP);
        canvas.text(label, MARGIN, y + (cell_height / 2).saturating_sub(HEIGHT.val() / 2));
        for column in 0..columns.len() {
            if let Some(image) = images.get(row * columns.len() + column) {
                canvas.image(image, (width, height), shrink, left + column * (cell_width + GAP), y);
            }
        }
    }
    Sheet { width: sheet_width as u32, height: sheet_height as u32, rgb: canvas.rgb }
}

/// Lines of at most `letters`, at most three of them, broken between words where that is possible.
fn wrap(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map(|line| line.chars().count()).unwrap_or_default();
        if line > 0 && line + 1 + word.chars().count() > letters {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    let cut = lines.len() > 3;
    lines.truncate(3);
    for (index, line) in lines.iter_mut().enumerate() {
        if line.chars().count() > letters || (cut && index == 2) {
            *line = line.chars().take(letters.saturating_sub(2)).chain(['.', '.']).collect();
        }
    }
    lines
}

struct Canvas {
    width: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    fn set(&mut self, x: usize, y: usize, color: [u8; 3]) {
        let at = (y * self.width + x) * 3;
        if x < self.width
            && let Some(pixel) = self.rgb.get_mut(at..at + 3)
        {
            pixel.copy_from_slice(&color);
        }
    }

    /// Letters that the font lacks become question marks.
    fn text(&mut self, text: &str, x: usize, y: usize) {
        let letter = get_raster_width(FontWeight::Regular, HEIGHT);
        for (index, c) in text.chars().enumerate() {
            let raster = [c, '?'].into_iter().find_map(|c| get_raster(c, FontWeight::Regular, HEIGHT));
            for (row, intensities) in raster.iter().flat_map(|raster| raster.rows().enumerate()) {
                for (column, intensity) in intensities.iter().enumerate() {
                    self.set(x + index * letter + column, y + row, [255 - intensity; 3]);
                }
            }
        }
    }

    /// An image, each `shrink × shrink` pixels of it averaged to one.
    fn image(&mut self, rgb: &[u8], (width, height): (usize, usize), shrink: usize, x: usize, y: usize) {
        for row in 0..height / shrink {
            for column in 0..width / shrink {
                let color = [0, 1, 2].map(|channel| {
                    let block = (0..shrink * shrink)
                        .map(|index| (row * shrink + index / shrink, column * shrink + index % shrink));
                    let sum: usize =
                        block.map(|(row, column)| usize::from(rgb[(row * width + column) * 3 + channel])).sum();
                    (sum / (shrink * shrink)) as u8
                });
                self.set(x + column, y + row, color);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_in_rows_and_columns_under_their_labels() {
        let images: Vec<Vec<u8>> = [10u8, 20, 30, 40].iter().map(|value| vec![*value; 16 * 16 * 3]).collect();
        let labels = |names: [&str; 2]| names.map(str::to_owned);
        let sheet = lay_out(&labels(["base", "epoch 1"]), &labels(["a", "b"]), &images, (16, 16));
        let count = |value: u8| sheet.rgb.chunks_exact(3).filter(|pixel| **pixel == [value; 3]).count();
        for value in [10, 20, 30, 40] {
            assert!(count(value) >= 256, "{value}");
        }
        assert_eq!(sheet.rgb.len(), (sheet.width * sheet.height * 3) as usize);
    }

    #[test]
    fn long_labels_are_wrapped_and_cut() {
        assert_eq!(wrap("a lighthouse at dusk", 10), ["a", "lighthouse", "at dusk"]);
        assert_eq!(wrap("one two three four five", 5), ["one", "two", "thr.."]);
        assert_eq!(wrap("", 5), [""]);
    }
}
