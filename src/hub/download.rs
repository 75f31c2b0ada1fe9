//! Downloads by the `hf-hub` crate, with what it leaves to its callers: digests, what is there already, and what errors mean.

use super::{
    Address, Cache, HubError,
    cache::{mark_of, token},
};
use hf_hub::{
    Repo, RepoType,
    api::{
        self,
        sync::{Api, ApiBuilder, ApiError, Metadata},
    },
};
use sd3pipe_stages::work::Progress;
use sha2::{Digest, Sha256};
use std::{
    cmp::Ordering,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

/// So often a transfer that breaks off is taken up again before it is the user's turn.
const RETRIES: usize = 5;

/// How many bytes are read at a time.
const PIECE: usize = 1 << 20;

/// What a server may be silent for, in seconds, and the variables that say otherwise: those of all programs of Hugging Face.
const ETAG_TIMEOUT: (&str, u64) = ("HF_HUB_ETAG_TIMEOUT", 10);
const DOWNLOAD_TIMEOUT: (&str, u64) = ("HF_HUB_DOWNLOAD_TIMEOUT", 30);

/// So long `hf-hub` waits for the lock of another program, which is no silence of the server.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A file and the server that has it.
struct Remote<'a> {
    address: &'a Address,
    api: Api,
    repo: Repo,
    cache: hf_hub::Cache,
    endpoint: String,
    with_token: bool,
}

pub(super) fn size(address: &Address) -> Result<u64, HubError> {
    Ok(Remote::new(address)?.metadata()?.size() as u64)
}

pub(super) fn download(address: &Address, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    let remote = Remote::new(address)?;
    let metadata = remote.metadata()?;
    let (repo, etag) = (remote.cache.repo(remote.repo.clone()), metadata.etag());
    let blob = repo.blob_path(etag);
    let pointer = repo.pointer_path(metadata.commit_hash()).join(&address.file);
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| HubError::File { path, source }
    };
    let blobs = blob.parent().unwrap_or(&blob);
    fs::create_dir_all(blobs).map_err(at(blobs))?;
    // Until it is taken away again, nothing is found here: a kill leaves no file that nobody has checked.
    let mark = mark_of(&blob);
    File::create(&mark).map_err(at(&mark))?;
    let (part, whole) = (blob.with_extension("part"), metadata.size() as u64);
    let length = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    if length(&blob) != whole {
        match length(&part).cmp(&whole) {
            Ordering::Less => remote.transfer(progress)?,
            // All of it came before, and the last step did not.
            Ordering::Equal => fs::rename(&part, &blob).map_err(at(&part))?,
            Ordering::Greater => {
                fs::remove_file(&part).map_err(at(&part))?;
                remote.transfer(progress)?;
            }
        }
    }
    if let Err(error) = remote.check(&blob, etag, progress) {
        if matches!(error, HubError::Damaged { .. }) {
            for path in [&pointer, &blob, &mark] {
                drop(fs::remove_file(path));
            }
        }
        return Err(error);
    }
    if !pointer.exists() {
        // Another revision has the same file.
        let folder = pointer.parent().unwrap_or(&pointer);
        fs::create_dir_all(folder).map_err(at(folder))?;
        let up = "../".repeat(address.file.split('/').count() + 1);
        std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), &pointer).map_err(at(&pointer))?;
    }
    repo.create_ref(metadata.commit_hash()).map_err(at(&remote.cache.path().join("refs")))?;
    match fs::remove_file(&mark) {
        // Another run that has checked it too may have been faster.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&mark)(error)),
        _ => Ok(pointer),
    }
}

impl<'a> Remote<'a> {
    fn new(address: &'a Address) -> Result<Self, HubError> {
        let folder = Cache::of_user().ok_or_else(|| HubError::NoHome { address: address.clone() })?.folder;
        let (cache, token) = (hf_hub::Cache::new(folder), token());
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned()).trim_end_matches('/').to_owned();
        let with_token = token.is_some();
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.clone())
            .with_token(token)
            .with_retries(RETRIES)
            .build()
            .map_err(|error| HubError::Failed { address: address.clone(), reason: error.to_string() })?;
        let repo = Repo::with_revision(address.repo.clone(), RepoType::Model, address.revision.clone());
        Ok(Self { address, api, repo, cache, endpoint, with_token })
    }

    /// What the server says of the file: its size, its commit, and the digest that is its name in the cache.
    fn metadata(&self) -> Result<Metadata, HubError> {
        let api = self.api.clone();
        let url = api.repo(self.repo.clone()).url(&self.address.file);
        let metadata =
            self.listened(ETAG_TIMEOUT, |_| {}, move |_| api.metadata(&url))?.map_err(|error| self.fault(error))?;
        let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if plain(metadata.etag()) && plain(metadata.commit_hash()) {
            return Ok(metadata);
        }
        Err(HubError::Failed { address: self.address.clone(), reason: "the server's answer makes no sense".to_owned() })
    }

    /// Fetches what is missing of the file. Another program that is at it is waited for.
    fn transfer(&self, progress: &dyn Progress) -> Result<(), HubError> {
        let mut waited = false;
        loop {
            let mut begun = false;
            let tell = |(size, done): (u64, u64)| {
                if !begun {
                    progress.begin(&format!("downloading {}", self.address.file), size >> 20, "MiB");
                }
                begun = true;
                progress.advance(done >> 20, "");
            };
            let (api, file) = (self.api.repo(self.repo.clone()), self.address.file.clone());
            let done = self.listened(DOWNLOAD_TIMEOUT, tell, move |told| {
                api.download_with_progress(&file, Meter { told, size: 0, done: 0 })
            });
            progress.end();
            match done? {
                Ok(_) => return Ok(()),
                Err(ApiError::LockAcquisition(_)) if !waited => {
                    progress.line(&format!("waiting for another program that downloads {}", self.address));
                    waited = true;
                }
                Err(ApiError::LockAcquisition(_)) => {}
                Err(error) => return Err(self.fault(error)),
            }
        }
    }

    /// What the server has to say, unless it says nothing for too long. `hf-hub` would listen for ever and can't be told otherwise, so
    /// it listens in a thread of its own, which then is left to itself: whoever asked ends with an error.
    fn listened<T: Send + 'static>(
        &self,
        (variable, seconds): (&'static str, u64),
        mut tell: impl FnMut((u64, u64)),
        ask: impl FnOnce(Sender<(u64, u64)>) -> T + Send + 'static,
    ) -> Result<T, HubError> {
        let seconds = std::env::var(variable).ok().and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(seconds);
        let (told, heard) = channel();
        // The line is open until all is said, whatever becomes of the copy.
        let asking = thread::spawn(move || (ask(told.clone()), drop(told)).0);
        loop {
            match heard.recv_timeout(Duration::from_secs(seconds).saturating_add(LOCK_WAIT)) {
                Ok(news) => tell(news),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(HubError::Silent { address: self.address.clone(), seconds, variable });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let reason = "the client ended in a panic".to_owned();
                    return asking.join().map_err(|_| HubError::Failed { address: self.address.clone(), reason });
                }
            }
        }
    }

    /// Of large files the server tells the SHA-256; of others a number of git's, which is left alone.
    fn check(&self, blob: &Path, etag: &str, progress: &dyn Progress) -> Result<(), HubError> {
        if etag.len() != 64 {
            return Ok(());
        }
        let fault = |source| HubError::File { path: blob.to_owned(), source };
        let mut file = File::open(blob).map_err(fault)?;
        let total = file.metadata().map_err(fault)?.len();
        progress.begin(&format!("checking {}", self.address.file), total >> 20, "MiB");
        let (mut hasher, mut piece, mut done) = (Sha256::new(), vec![0; PIECE], 0);
        loop {
            let length = match file.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fault(error)),
            };
            hasher.update(&piece[..length]);
            done += length as u64;
            progress.advance(done >> 20, "");
        }
        progress.end();
        let found = format!("{:x}", hasher.finalize());
        if found.eq_ignore_ascii_case(etag) {
            return Ok(());
        }
        Err(HubError::Damaged { address: self.address.clone(), found, promised: etag.to_owned() })
    }

    fn fault(&self, error: ApiError) -> HubError {
        let (address, page) = (self.address.clone(), format!("{}/{}", self.endpoint, self.address.repo));
        match status(&error) {
            Some(401 | 403) => HubError::Refused { address, page, with_token: self.with_token },
            Some(404) => HubError::Absent { address, page },
            _ => HubError::Failed { address, reason: error.to_string() },
        }
    }
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

/// Tells how many bytes there are and how many of them have come.
struct Meter {
    told: Sender<(u64, u64)>,
    size: u64,
    done: u64,
}

impl api::Progress for Meter {
    /// Comes again whenever a transfer is taken up again, and then what is there is told once more.
    fn init(&mut self, size: usize, _: &str) {
        (self.size, self.done) = (size as u64, 0);
        self.update(0);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        // Nobody hears it any more when the server was given up.
        let _ = self.told.send((self.size, self.done));
    }

    fn finish(&mut self) {}
}
