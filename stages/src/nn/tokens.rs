//! Token ids on their way into a text encoder.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Why token ids can't be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing to encode.
    #[error("there are no tokens to encode")]
    Empty,
    /// The texts of a batch differ in length.
    #[error("text {text} of the batch has {found} tokens, the first one {expected}; pad them to one length")]
    Ragged {
        /// The text's place in the batch.
        text: usize,
        /// Its number of tokens.
        found: usize,
        /// The first text's number of tokens.
        expected: usize,
    },
    /// More tokens than the encoder has positions.
    #[error("texts of {found} tokens are too long for an encoder of {positions} positions; cut them")]
    TooLong {
        /// The number of tokens.
        found: usize,
        /// The number of positions.
        positions: usize,
    },
    /// An id that the encoder's embedding doesn't have.
    #[error(
        "text {text} of the batch has the token {id}, but the encoder knows {vocabulary}; use the tokenizer that belongs to it"
    )]
    Unknown {
        /// The text's place in the batch.
        text: usize,
        /// The token's id.
        id: u32,
        /// The number of tokens that the encoder knows.
        vocabulary: usize,
    },
}

/// Checks a batch of token ids and looks up their embeddings: `[vocabulary, D]` to `[B, S, D]`.
pub(super) fn embed(
    table: &Tensor<2>,
    token_ids: &[Vec<u32>],
    positions: Option<usize>,
) -> Result<Tensor<3>, TokenError> {
    let [vocabulary, width] = table.dims();
    let length = token_ids.first().map_or(0, Vec::len);
    if length == 0 {
        return Err(TokenError::Empty);
    }
    if let Some(positions) = positions.filter(|positions| length > *positions) {
        return Err(TokenError::TooLong { found: length, positions });
    }
    for (text, ids) in token_ids.iter().enumerate() {
        if ids.len() != length {
            return Err(TokenError::Ragged { text, found: ids.len(), expected: length });
        }
        if let Some(&id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(TokenError::Unknown { text, id, vocabulary });
        }
    }
    let ids = indices(token_ids.iter().flatten().map(|id| *id as usize), &table.device());
    Ok(table.clone().select(0, ids).reshape([token_ids.len(), length, width]))
}

/// Indices for `select`.
pub(super) fn indices(values: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.map(|value| value as i32).collect();
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_an_encoder_does_not_have_are_errors() {
        let table = Tensor::<2>::ones([10, 2], &Device::flex());
        let error = |ids: &[Vec<u32>]| embed(&table, ids, Some(3)).unwrap_err();
        assert_eq!(error(&[]), TokenError::Empty);
        assert_eq!(error(&[vec![]]), TokenError::Empty);
        assert_eq!(error(&[vec![1; 4]]), TokenError::TooLong { found: 4, positions: 3 });
        assert_eq!(error(&[vec![1], vec![1, 2]]), TokenError::Ragged { text: 1, found: 2, expected: 1 });
        assert_eq!(error(&[vec![9], vec![10]]), TokenError::Unknown { text: 1, id: 10, vocabulary: 10 });
        assert_eq!(embed(&table, &[vec![1, 2], vec![3, 9]], None).unwrap().dims(), [2, 2, 2]);
    }
}
