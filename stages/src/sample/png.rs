//! PNG files with the settings of their image in them.

use crate::error::StageError;

/// An image of RGB bytes as a PNG, with texts under keywords (`iTXt`, so that a prompt may have any letters).
pub fn encode(width: u32, height: u32, rgb: &[u8], texts: &[(&str, String)]) -> Result<Vec<u8>, StageError> {
    let mut bytes = Vec::new();
    let write = || -> Result<(), png::EncodingError> {
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        for (keyword, text) in texts {
            encoder.add_itxt_chunk((*keyword).to_owned(), text.clone())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(rgb)?;
        writer.finish()
    };
    let mut write = write;
    write().map_err(|error| StageError::Unfit(format!("the image can't be written: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pixels_and_the_texts_come_back() {
        let rgb: Vec<u8> = (0..2 * 3 * 3).collect();
        let bytes = encode(2, 3, &rgb, &[("prompt", "水墨画, a mountain".to_owned())]).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, rgb);
        let text = &reader.info().utf8_text[0];
        assert_eq!((text.keyword.as_str(), text.get_text().unwrap().as_str()), ("prompt", "水墨画, a mountain"));
    }
}
