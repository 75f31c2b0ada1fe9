//! Sealed content: what is in a row of the index, with a checksum, since SQLite has none.

/// Appends a checksum over `name` and `content` to `content`, so that neither damage to a row's content nor a row
/// found under another's name goes unnoticed.
pub(crate) fn seal(name: &[&[u8]], mut content: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(name, &content);
    content.extend_from_slice(&checksum);
    content
}

/// What was sealed, or nothing if it is damaged.
pub(crate) fn unseal<'b>(name: &[&[u8]], sealed: &'b [u8]) -> Option<&'b [u8]> {
    let (content, expected) = sealed.split_last_chunk::<8>()?;
    (checksum(name, content) == *expected).then_some(content)
}

fn checksum(name: &[&[u8]], content: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    for part in name {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(content);
    let mut checksum = [0; 8];
    hasher.finalize_xof().fill(&mut checksum);
    checksum
}
