//! Objects that come from a remote store.

use std::io::Write;
use std::sync::Mutex;

use futures_util::StreamExt;
use object_store::ObjectStoreExt;
use sd3pipe_cache::{Object, Store, StoreError};

use crate::pool::each;
use crate::{Heard, READERS, Remote, lock};

impl Remote {
    /// Brings objects into a store, except those that it has. Which did not come is seen there: one that is missing, damaged or cut off is
    /// no error, and [`Remote::lacks`] knows it from then on.
    ///
    /// # Errors
    /// A store that can't be written.
    pub fn bring(&self, objects: &[Object], store: &Store, heard: Heard<'_>) -> Result<(), StoreError> {
        let failed = Mutex::new(None);
        each(objects, READERS, |object| {
            if lock(&failed).is_some() || self.lacks(&object.digest) || !heard(0) {
                return;
            }
            if !store.has(&object.digest, object.length)
                && let Err(error) = self.bring_one(object, store, heard)
            {
                lock(&failed).get_or_insert(error);
            }
            heard(object.length);
        });
        lock(&failed).take().map_or(Ok(()), Err)
    }

    fn bring_one(&self, object: &Object, store: &Store, heard: Heard<'_>) -> Result<(), StoreError> {
        let path = self.object_path(&object.digest);
        let mut writer = store.writer()?;
        // It's written while it comes; what is longer than it should be is not read on.
        let (mut failed, mut length) = (None, 0);
        let came = self.ask(async || {
            let found = self.reading.get(&path).await?;
            let mut bytes = found.into_stream();
            while let Some(bytes) = bytes.next().await {
                let bytes = bytes?;
                if let Err(reason) = writer.write_all(&bytes) {
                    failed = Some(reason);
                }
                length += bytes.len() as u64;
                if failed.is_some() || length > object.length {
                    break;
                }
                if !heard(0) {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        if let Some(reason) = failed {
            return Err(StoreError::write(writer.path())(reason));
        }
        if came == Some(Some(true)) && writer.so_far() == *object {
            return writer.finish().map(drop);
        }
        if came == Some(Some(false)) {
            return Ok(());
        }
        // It is not asked for again, whatever was wrong.
        lock(&self.lacking).insert(object.digest);
        if came == Some(Some(true)) {
            self.health.wrong(format!("object {}", object.digest.short()));
            lock(&self.wrong).insert(path);
        }
        Ok(())
    }
}
