//! A server that speaks what Hugging Face's does of downloads, and fails as it can.

use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const TOKEN: &str = "hf_right";

/// How the server behaves, and what it was asked.
#[derive(Default)]
pub struct State {
    /// What it has, by the path in the one repository.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Whether it wants a token.
    pub gated: bool,
    /// So many transfers break off in the middle of what is left.
    pub breaks: usize,
    /// Whether it takes every request and answers none.
    pub silent: bool,
    /// Whether transfers stop in the middle of what is left, the line kept open.
    pub stalls: bool,
    /// Whether `main` is another commit by now.
    pub moved: bool,
    /// Whether other bytes come than were promised.
    pub lies: bool,
    /// Method, path and range of each request.
    pub log: Vec<String>,
}

impl State {
    /// From where on bytes were asked for, of each transfer.
    pub fn transfers(&self) -> Vec<usize> {
        let from = |line: &String| line.split_once("/cdn/")?.1.split_once("bytes=")?.1.strip_suffix('-')?.parse().ok();
        self.log.iter().filter_map(from).collect()
    }
}

#[derive(Clone)]
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn with(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its number"));
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let server = Self { url, state: Arc::new(Mutex::new(State { files, ..State::default() })) };
        let answering = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = answering.clone();
                // Who breaks off while it is answered is nobody's fault here.
                thread::spawn(move || drop(server.answer(stream)));
            }
        });
        server
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the server's state")
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().unwrap_or(Ok(String::new()))?;
        let (mut range, mut token) = (None, None);
        for line in lines {
            let line = line?;
            match line.split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("range") => range = Some(value.to_owned()),
                Some((name, value)) if name.eq_ignore_ascii_case("authorization") => token = Some(value.to_owned()),
                None => break,
                _ => {}
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        self.state().log.push(format!("{request} {}", range.as_deref().unwrap_or_default()));
        if self.state().silent {
            loop {
                thread::park();
            }
        }
        let (head, body) = self.reply(&path, range.as_deref(), token.as_deref());
        let (mut sent, mut stalls) = (body.len(), false);
        // Only what was asked for to the end is a transfer.
        if path.starts_with("/cdn/") && range.is_some_and(|range| range.ends_with('-')) {
            let mut state = self.state();
            stalls = state.stalls;
            if stalls || state.breaks > 0 {
                state.breaks = state.breaks.saturating_sub(1);
                sent /= 2;
            }
        }
        write!(stream, "HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
        stream.write_all(&body[..sent])?;
        if stalls {
            loop {
                thread::park();
            }
        }
        Ok(())
    }

    fn reply(&self, path: &str, range: Option<&str>, token: Option<&str>) -> (String, Vec<u8>) {
        let state = self.state();
        let digest = |bytes: &[u8]| format!("{:x}", Sha256::digest(bytes));
        if let Some(wanted) = path.strip_prefix("/cdn/") {
            let file = state.files.values().find(|bytes| digest(bytes) == wanted);
            return file.map_or_else(not_found, |bytes| part(bytes, range, state.lies, ""));
        }
        if state.gated && token != Some(&format!("Bearer {TOKEN}")) {
            return ("401 Unauthorized\r\nx-error-code: GatedRepo".to_owned(), Vec::new());
        }
        let file = ["main", "v2", COMMIT].iter().find_map(|revision| {
            let name = path.strip_prefix(&format!("/lab/tiny/resolve/{revision}/"))?;
            Some((name, state.files.get(name)?))
        });
        let Some((name, bytes)) = file else { return not_found() };
        let moved = state.moved && path.contains("/main/");
        let commit = if path.contains("/v2/") || moved { COMMIT.replace('0', "f") } else { COMMIT.to_owned() };
        let head = format!("\r\nx-repo-commit: {commit}");
        if name.ends_with(".safetensors") {
            let sha = digest(bytes);
            let location = format!("location: {}/cdn/{sha}", self.url);
            let linked = format!("x-linked-etag: \"{sha}\"\r\nx-linked-size: {}", bytes.len());
            return (format!("302 Found{head}\r\n{location}\r\n{linked}"), Vec::new());
        }
        part(bytes, range, false, &format!("{head}\r\netag: \"{}\"", &digest(bytes)[..40]))
    }
}

fn not_found() -> (String, Vec<u8>) {
    ("404 Not Found\r\nx-error-code: EntryNotFound".to_owned(), Vec::new())
}

/// The bytes of a range, as `bytes=3-` or `bytes=0-0` ask for them.
fn part(bytes: &[u8], range: Option<&str>, lies: bool, head: &str) -> (String, Vec<u8>) {
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')).unwrap_or(("0", ""));
    let start = range.0.parse().unwrap_or(0);
    let end = range.1.parse().map_or(bytes.len(), |last: usize| last + 1);
    let mut piece = bytes[start..end].to_vec();
    if lies {
        piece.iter_mut().for_each(|byte| *byte ^= 1);
    }
    (format!("206 Partial Content{head}\r\ncontent-range: bytes {start}-{}/{}", end - 1, bytes.len()), piece)
}
