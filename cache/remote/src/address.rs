//! Addresses of remote stores, and the clients that reach them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, io};

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

use crate::{RemoteError, Use};

/// An answer to an upload comes when all of it is there: that takes so many times as long as a byte of a download may.
const FOR_WRITING: u32 = 6;

/// How an address is reached.
pub(crate) struct Clients {
    pub(crate) reading: Arc<dyn ObjectStore>,
    pub(crate) writing: Option<Arc<dyn ObjectStore>>,
    pub(crate) prefix: Path,
    /// Why a folder is not reached.
    pub(crate) away: Option<io::Error>,
}

/// The clients for an address.
pub(crate) fn clients(address: &str, usage: Use) -> Result<Clients, RemoteError> {
    let unknown = || RemoteError::Address { address: address.to_owned() };
    let url = Url::parse(address).ok().filter(|_| address.contains("://"));
    let folder = match &url {
        None if address.contains("://") => return Err(unknown()),
        None => Some(PathBuf::from(address)),
        Some(url) if url.scheme() == "file" => Some(url.to_file_path().map_err(|()| unknown())?),
        Some(_) => None,
    };
    if let Some(folder) = folder {
        let folder = std::path::absolute(&folder).map_err(|_| unknown())?;
        let there = if usage.writes { fs::create_dir_all(&folder) } else { fs::read_dir(&folder).map(drop) };
        let prefix = Path::from_absolute_path(&folder).map_err(|_| unknown())?;
        let client: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new().with_fsync(true));
        let writing = usage.writes.then(|| Arc::clone(&client));
        return Ok(Clients { reading: client, writing, prefix, away: there.err() });
    }
    let (scheme, prefix) = url.and_then(|url| ObjectStoreScheme::parse(&url).ok()).ok_or_else(unknown)?;
    let client = |patience| cloud(&scheme, address, patience).unwrap_or_else(|| Err(unknown()));
    let reading = client(usage.patience)?;
    let writing = usage.writes.then(|| client(usage.patience * FOR_WRITING)).transpose()?;
    Ok(Clients { reading, writing, prefix, away: None })
}

/// The client of a cloud, with what the environment says of it; nothing for what is no cloud.
fn cloud(
    scheme: &ObjectStoreScheme,
    address: &str,
    patience: Duration,
) -> Option<Result<Arc<dyn ObjectStore>, RemoteError>> {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 3.0 };
    let retry = RetryConfig { backoff, max_retries: 2, retry_timeout: patience * 3 };
    // A large object takes as long as it takes; what must not last is silence.
    let times = [
        (ClientConfigKey::Timeout, "7days".to_owned()),
        (ClientConfigKey::ConnectTimeout, "5s".to_owned()),
        (ClientConfigKey::ReadTimeout, format!("{}ms", patience.as_millis())),
    ];
    // A time that the user has set in the environment holds.
    let unset =
        |cloud: &str, key: &ClientConfigKey| env::var_os(format!("{cloud}_{}", key.as_ref().to_uppercase())).is_none();
    macro_rules! client {
        ($builder:ident, $key:ident, $cloud:literal) => {{
            let builder = $builder::from_env().with_url(address).with_retry(retry);
            let ours = times.into_iter().filter(|(key, _)| unset($cloud, key));
            let builder = ours.fold(builder, |builder, (key, time)| builder.with_config($key::Client(key), time));
            builder.build().map(|client| Arc::new(client) as Arc<dyn ObjectStore>)
        }};
    }
    let client = match scheme {
        ObjectStoreScheme::AmazonS3 => client!(AmazonS3Builder, AmazonS3ConfigKey, "AWS"),
        ObjectStoreScheme::GoogleCloudStorage => client!(GoogleCloudStorageBuilder, GoogleConfigKey, "GOOGLE"),
        ObjectStoreScheme::MicrosoftAzure => client!(MicrosoftAzureBuilder, AzureConfigKey, "AZURE"),
        _ => return None,
    };
    let fault = |error| RemoteError::Settings { address: address.to_owned(), reason: crate::health::cause(&error) };
    Some(client.map_err(fault))
}
