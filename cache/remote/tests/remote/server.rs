//! A real server that speaks S3, and between it and the client a proxy that fails as networks and servers do.

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Mutex, OnceLock, mpsc},
    thread,
    time::Duration,
};

/// What goes wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The body ends in its middle.
    Cut,
    /// One bit of the body is another.
    Flip,
    /// The server is not well.
    Error,
    /// Nothing is said for longer than the client's patience.
    Stall,
    /// The connection ends before anything is said.
    Drop,
    /// The answer takes its time.
    Slow,
}

/// Of one bucket: what goes wrong, and what was asked.
#[derive(Default)]
struct State {
    fault: Option<Fault>,
    /// What stands in the requests that it goes wrong with: `GET`, `/objects/`.
    with: &'static str,
    /// How many of those go well first, and how many go wrong then.
    after: usize,
    times: usize,
    log: Vec<String>,
}

/// A bucket of its own for a test.
pub struct Bucket {
    name: String,
    folder: PathBuf,
}

pub const PREFIX: &str = "team/store";

/// Longer than this nobody waits for a byte.
pub const PATIENCE: Duration = Duration::from_millis(1500);

impl Bucket {
    pub fn new(name: &str) -> Self {
        let folder = root().join(name);
        fs::create_dir(&folder).expect("a bucket");
        states().lock().unwrap().insert(name.to_owned(), State::default());
        Self { name: name.to_owned(), folder }
    }

    pub fn address(&self) -> String {
        format!("s3://{}/{PREFIX}", self.name)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(states().lock().unwrap().get_mut(&self.name).expect("the bucket"))
    }

    /// From the request number `after` on that has this in it so many go wrong.
    pub fn fails(&self, fault: Fault, with: &'static str, after: usize, times: usize) {
        self.with(|state| (state.fault, state.with, state.after, state.times) = (Some(fault), with, after, times));
    }

    pub fn is_well(&self) {
        self.with(|state| state.fault = None);
    }

    /// Takes what was asked since: `PUT /bucket/…`.
    pub fn log(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.log))
    }

    /// What lies in the bucket below a folder of the remote store, by name.
    pub fn files(&self, kind: &str) -> HashMap<String, PathBuf> {
        let folder = self.folder.join(PREFIX).join("sd3pipe-1").join(kind);
        let mut files = HashMap::new();
        for shard in fs::read_dir(folder).into_iter().flatten().flatten() {
            for file in fs::read_dir(shard.path()).expect("a folder").flatten() {
                let name =
                    [shard.file_name(), file.file_name()].map(|part| part.into_string().expect("digits")).concat();
                files.insert(name, file.path());
            }
        }
        files
    }
}

fn states() -> &'static Mutex<HashMap<String, State>> {
    static STATES: OnceLock<Mutex<HashMap<String, State>>> = OnceLock::new();
    STATES.get_or_init(Mutex::default)
}

/// The folder of the server's buckets. Whoever asks first starts it.
fn root() -> &'static PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = tempfile::tempdir().expect("a folder").keep();
        let server = serve(root.clone());
        let proxy = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", proxy.local_addr().expect("its address"));
        thread::spawn(move || {
            for stream in proxy.incoming().flatten() {
                // A client that breaks off is nobody's fault here.
                thread::spawn(move || drop(pass_on(stream, server)));
            }
        });
        let settings = [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "user"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
        ];
        for (name, value) in settings {
            // SAFETY: every test comes by here before it has anything read the environment, and waits until this is done.
            unsafe { std::env::set_var(name, value) };
        }
        root
    })
}

fn serve(root: PathBuf) -> SocketAddr {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut builder = S3ServiceBuilder::new(FileSystem::new(root).expect("a folder"));
            builder.set_auth(SimpleAuth::from_single("user", "secret"));
            let service = builder.build();
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            send.send(listener.local_addr().expect("its address")).expect("somebody waits");
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let service = service.clone();
                tokio::spawn(async move {
                    drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
    });
    receive.recv().expect("an address")
}

/// One request and its answer.
fn pass_on(mut client: TcpStream, server: SocketAddr) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head += &line;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request: String = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let fault = fault_of(&request);
    match fault {
        Some(Fault::Drop) => return Ok(()),
        Some(Fault::Error) => {
            return write!(client, "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        Some(Fault::Stall) => thread::sleep(PATIENCE * 3),
        Some(Fault::Slow) => thread::sleep(Duration::from_millis(10)),
        _ => {}
    }
    let mut upstream = TcpStream::connect(server)?;
    write!(upstream, "{head}connection: close\r\n\r\n")?;
    upstream.write_all(&body)?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    let body_at = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    let middle = body_at + (answer.len() - body_at) / 2;
    match fault {
        Some(Fault::Cut) => answer.truncate(middle),
        Some(Fault::Flip) if middle < answer.len() => answer[middle] ^= 4,
        _ => {}
    }
    client.write_all(&answer)
}

/// What is to go wrong with a request, which is written down.
fn fault_of(request: &str) -> Option<Fault> {
    let mut states = states().lock().unwrap();
    let state = states.get_mut(request.split('/').nth(1)?)?;
    state.log.push(request.to_owned());
    let fault = state.fault.filter(|_| request.contains(state.with))?;
    if state.after > 0 {
        state.after -= 1;
        return None;
    }
    state.times = state.times.checked_sub(1)?;
    Some(fault)
}
