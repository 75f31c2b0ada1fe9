//! From what the VAE decodes to the bytes of an image.

use crate::nn;
use burn::tensor::Tensor;

/// The red, green and blue bytes, row by row, of one image `[1, 3, height, width]` in [−1, 1], rounded (diffusers'
/// `VaeImageProcessor`). Nothing when a value is not finite.
pub fn to_rgb(image: Tensor<4>) -> Option<Vec<u8>> {
    let planes = nn::to_host(image);
    let pixels = planes.len() / 3;
    let finite = planes.iter().all(|value| value.is_finite());
    let byte = |value: f32| ((value + 1.0) / 2.0 * 255.0).round().clamp(0.0, 255.0) as u8;
    finite.then(|| {
        (0..pixels).flat_map(|pixel| [0, 1, 2].map(|channel| byte(planes[channel * pixels + pixel]))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    fn image(planes: [f32; 6]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(planes.to_vec(), [1, 3, 1, 2]), (&Device::flex(), DType::F32))
    }

    #[test]
    fn planes_become_pixels_and_what_is_out_of_range_is_clamped() {
        assert_eq!(to_rgb(image([-1.0, 1.0, 0.0, -0.5, -7.0, 7.0])).unwrap(), [0, 128, 0, 255, 64, 255]);
    }

    #[test]
    fn an_image_that_is_not_finite_is_none() {
        assert_eq!(to_rgb(image([0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0])), None);
        assert_eq!(to_rgb(image([0.0, 0.0, f32::INFINITY, 0.0, 0.0, 0.0])), None);
    }
}
