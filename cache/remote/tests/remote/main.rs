//! Two machines and what lies between them: a server that speaks S3, or a folder, that works, lies or fails.

mod server;

use sd3pipe_cache::{Digest, Key, Object, Output, Preimage, Record, Store};
use sd3pipe_remote::{Remote, Use};
use server::{Bucket, Fault, PATIENCE};
use std::{
    collections::HashSet,
    fs,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A machine with a store of its own.
struct Machine {
    _folder: TempDir,
    store: Store,
    remote: Remote,
}

impl Machine {
    fn at(address: &str) -> Self {
        Self::with(address, Use { writes: true, patience: PATIENCE })
    }

    fn with(address: &str, usage: Use) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("store")).expect("a store");
        Self { _folder: folder, store, remote: Remote::open(address, usage).expect("an address") }
    }

    /// Makes results with two objects each, of which the first belongs to all.
    fn make(&self, count: usize, length: usize) -> Vec<Record> {
        let records: Vec<Record> = (0..count).map(|number| self.make_one(number, length)).collect();
        self.store.publish(&records).expect("published");
        records
    }

    fn make_one(&self, number: usize, length: usize) -> Record {
        let objects = [self.store.put(b"in all of them"), self.store.put(&content(number, length))];
        let outputs = objects.map(|object| {
            let Object { digest, length } = object.expect("stored");
            Output { role: "latents".to_owned(), item: number.to_string(), digest, length, content: None }
        });
        Record { preimage: preimage(number), label: number.to_string(), outputs: outputs.to_vec(), seconds: 1.5 }
    }

    fn send(&self, records: &[Record]) -> sd3pipe_remote::Sent {
        self.remote.send(records, &self.store, &|_| true).expect("a store that can be read")
    }

    /// Brings what is there of these records, as a run does: objects, and then the records that are whole. Gives how many those are.
    fn bring(&self, keys: &[Key]) -> usize {
        let records: Vec<Record> = self.remote.records(keys).into_iter().flatten().collect();
        let objects = records.iter().flat_map(|record| &record.outputs);
        let objects: HashSet<Object> =
            objects.map(|output| Object { digest: output.digest, length: output.length }).collect();
        self.remote.bring(&objects.into_iter().collect::<Vec<_>>(), &self.store, &|_| true).expect("a store");
        let whole = |record: &Record| record.outputs.iter().all(|output| self.store.has(&output.digest, output.length));
        let whole: Vec<Record> = records.into_iter().filter(whole).collect();
        self.store.publish(&whole).expect("published");
        whole.len()
    }

    /// Every record that is here has the bytes that were made, and the store is sound.
    fn is_right(&self, records: &[Record]) {
        for record in records {
            let Some(found) = self.store.record(&record.key()).expect("an index") else { continue };
            assert_eq!(found, *record);
            for output in &found.outputs {
                assert_eq!(Digest::of(&self.store.read(&output.digest).expect("an object")), output.digest);
            }
        }
        let verified = self.store.verify(&|_| Vec::new(), &|_, _| ()).expect("a store");
        assert!(verified.faults.is_empty(), "{:?}", verified.faults);
    }
}

fn preimage(number: usize) -> Preimage {
    let mut preimage = Preimage::new("encode image", 1);
    preimage.read("number", &number).expect("a number");
    preimage
}

fn keys(records: &[Record]) -> Vec<Key> {
    records.iter().map(Record::key).collect()
}

fn content(number: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn what_one_machine_sends_another_brings_and_nothing_goes_twice() {
    let bucket = Bucket::new("shared");
    let folder = tempfile::tempdir().unwrap();
    for address in [bucket.address(), folder.path().join("remote").display().to_string()] {
        let (one, other) = (Machine::at(&address), Machine::at(&address));
        let records = one.make(40, 3000);
        let sent = one.send(&records);
        assert_eq!((sent.records, sent.objects, sent.bytes, sent.complete), (40, 41, 40 * 3000 + 14, true));
        assert_eq!(one.send(&records), sd3pipe_remote::Sent { complete: true, ..Default::default() });
        assert_eq!(other.bring(&keys(&records)), 40);
        other.is_right(&records);
        assert_eq!(other.remote.has_records(&[records[0].key(), preimage(99).key()]), [Some(true), Some(false)]);
        assert_eq!(one.remote.notices().len() + other.remote.notices().len(), 0);
    }
}

#[test]
fn what_is_large_goes_in_parts() {
    let bucket = Bucket::new("large");
    let (one, other) = (Machine::at(&bucket.address()), Machine::at(&bucket.address()));
    let records = one.make(1, 21 << 20);
    assert!(one.send(&records).complete);
    assert_eq!(bucket.log().iter().filter(|line| line.contains("partNumber=")).count(), 3);
    assert_eq!(other.bring(&keys(&records)), 1);
    other.is_right(&records);
    // A transfer that nobody waits for any longer leaves nothing.
    let next = [one.make_one(7, 21 << 20)];
    one.store.publish(&next).unwrap();
    assert!(!one.remote.send(&next, &one.store, &|_| false).unwrap().complete);
    assert_eq!(bucket.files("records").len(), 1);
}

#[test]
fn objects_are_there_before_the_records_that_name_them_wherever_it_is_cut_off() {
    let bucket = Bucket::new("cut-off");
    // Six objects and five records; from each on that is written the server is gone.
    for after in 0..11 {
        let one = Machine::at(&bucket.address());
        let records: Vec<Record> = (0..5).map(|number| one.make_one(100 * after + number, 500)).collect();
        one.store.publish(&records).unwrap();
        bucket.fails(Fault::Drop, "PUT ", after, usize::MAX);
        let sent = one.send(&records);
        bucket.is_well();
        // The object that belongs to all is there from the second time on, and one more thing with it.
        assert_eq!(sent.complete, after == 10, "{after}");
        let objects = bucket.files("objects");
        for (name, path) in bucket.files("records") {
            let record = Record::from_bytes(&name.parse().unwrap(), &fs::read(path).unwrap()).expect("a whole record");
            for output in record.outputs {
                let bytes = fs::read(&objects[&output.digest.to_string()]).unwrap();
                assert_eq!(Digest::of(&bytes), output.digest);
            }
        }
        // It goes on from there: another process, the same store.
        let again = Remote::open(&bucket.address(), Use { writes: true, patience: PATIENCE }).unwrap();
        let rest = again.send(&records, &one.store, &|_| true).unwrap();
        assert!(rest.complete && sent.records + rest.records == 5, "{after}: {sent:?} {rest:?}");
        assert!(rest.objects <= 6 - sent.objects, "{after}: {sent:?} {rest:?}");
    }
}

#[test]
fn a_server_that_fails_now_and_then_costs_nothing() {
    for fault in [Fault::Cut, Fault::Error, Fault::Stall, Fault::Drop] {
        let bucket = Bucket::new(&format!("once-{fault:?}").to_lowercase());
        let (one, other) = (Machine::at(&bucket.address()), Machine::at(&bucket.address()));
        let records = one.make(4, 3000);
        bucket.fails(fault, "PUT ", 2, 1);
        let sent = one.send(&records).complete;
        assert!(sent || fault == Fault::Cut, "{fault:?}: {:?}", one.remote.notices());
        bucket.is_well();
        assert!(one.send(&records).complete);
        bucket.fails(fault, "GET ", 2, 1);
        assert_eq!(other.bring(&keys(&records)), 4, "{fault:?}: {:?}", other.remote.notices());
        other.is_right(&records);
    }
}

#[test]
fn a_lying_server_costs_results_and_never_gives_a_wrong_byte() {
    for (fault, with) in [
        (Fault::Flip, "/objects/"),
        (Fault::Flip, "/records/"),
        (Fault::Cut, "/objects/"),
        (Fault::Cut, "/records/"),
        (Fault::Error, "/objects/"),
        (Fault::Drop, "/objects/"),
        (Fault::Stall, "/objects/"),
    ] {
        let bucket = Bucket::new(&format!("always-{fault:?}-{}", with.trim_matches('/')).to_lowercase());
        let (one, other) = (Machine::at(&bucket.address()), Machine::at(&bucket.address()));
        let records = one.make(6, 3000);
        assert!(one.send(&records).complete);
        bucket.fails(fault, with, 0, usize::MAX);
        assert_eq!(other.bring(&keys(&records)), 0, "{fault:?} {with}");
        other.is_right(&records);
        let notices = other.remote.notices();
        assert_eq!(notices.len(), 1, "{fault:?} {with}: {notices:?}");
        let (said, gone) = match fault {
            Fault::Flip => ("came with other bytes than were stored there: not used", false),
            _ => ("can't be reached", true),
        };
        assert!(notices[0].contains(said), "{notices:?}");
        assert_eq!(other.remote.is_gone(), gone);
    }
}

#[test]
fn what_is_wrong_there_is_written_anew_by_who_makes_it() {
    let bucket = Bucket::new("healed");
    let (one, other, third) =
        (Machine::at(&bucket.address()), Machine::at(&bucket.address()), Machine::at(&bucket.address()));
    let records = one.make(3, 3000);
    assert!(one.send(&records).complete);
    let [swapped, cut, gone] =
        [0, 1, 2].map(|number: usize| bucket.files("objects")[&records[number].outputs[1].digest.to_string()].clone());
    fs::write(&swapped, content(17, 3000)).unwrap();
    fs::write(&cut, content(1, 2999)).unwrap();
    fs::remove_file(&gone).unwrap();
    assert_eq!(other.bring(&keys(&records)), 0);
    other.is_right(&records);
    assert!(records.iter().all(|record| other.remote.lacks(&record.outputs[1].digest)));
    other.make(3, 3000);
    let sent = other.send(&records);
    assert_eq!((sent.records, sent.objects, sent.complete), (3, 3, true));
    assert_eq!(third.bring(&keys(&records)), 3);
    third.is_right(&records);
}

#[test]
fn a_record_under_another_key_is_none() {
    let bucket = Bucket::new("swapped");
    let (one, other) = (Machine::at(&bucket.address()), Machine::at(&bucket.address()));
    let records = one.make(2, 100);
    assert!(one.send(&records).complete);
    let files = bucket.files("records");
    let [first, second] = [0, 1].map(|number: usize| &files[&records[number].key().to_string()]);
    fs::copy(first, second).unwrap();
    assert_eq!(other.bring(&keys(&records)), 1);
    assert!(other.store.record(&records[1].key()).unwrap().is_none());
    assert!(other.remote.notices()[0].starts_with("the record "));
}

#[test]
fn who_only_reads_writes_nothing() {
    let bucket = Bucket::new("read-only");
    let writer = Machine::at(&bucket.address());
    let records = writer.make(3, 100);
    assert!(writer.send(&records[..2]).complete);
    bucket.log();
    let reader = Machine::with(&bucket.address(), Use { writes: false, patience: PATIENCE });
    assert_eq!(reader.bring(&keys(&records)), 2);
    reader.make(3, 100);
    assert_eq!(reader.send(&records), sd3pipe_remote::Sent::default());
    assert!(bucket.log().iter().all(|line| line.starts_with("GET ") || line.starts_with("HEAD ")));
    assert_eq!(bucket.files("records").len(), 2);
}

#[test]
fn what_is_damaged_here_is_not_sent() {
    let bucket = Bucket::new("damaged-here");
    let one = Machine::at(&bucket.address());
    let records = one.make(2, 100);
    let path = one.store.object_path(&records[0].outputs[1].digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, content(5, 100)).unwrap();
    // As another process finds it: what this one has written it does not read again.
    let store = Store::open(one.store.root()).unwrap();
    let sent = one.remote.send(&records, &store, &|_| true).unwrap();
    assert_eq!((sent.records, sent.complete), (1, false));
    assert_eq!(bucket.files("objects").len(), 2);
}

#[test]
fn nobody_there_is_noticed_soon_and_told_once() {
    // A port that nobody listens at, of an address of its own: the endpoint of the environment is the server's.
    let folder = tempfile::tempdir().unwrap();
    let away = folder.path().join("not/mounted");
    let machine = Machine::with(&away.display().to_string(), Use { writes: false, patience: PATIENCE });
    assert!(machine.remote.is_gone());
    assert_eq!(machine.bring(&[preimage(1).key()]), 0);
    assert_eq!(machine.remote.notices().len(), 1);

    let bucket = Bucket::new("away");
    bucket.fails(Fault::Drop, "", 0, usize::MAX);
    let machine = Machine::at(&bucket.address());
    let (start, records) = (Instant::now(), machine.make(200, 10));
    assert_eq!(machine.bring(&keys(&records)), 0);
    assert!(!machine.send(&records).complete);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let notices = machine.remote.notices();
    assert!(notices.len() == 1 && notices[0].ends_with("going on with the local one"), "{notices:?}");
    // Not each of the 200 was asked for, each several times.
    assert!(bucket.log().len() < 150);
}

#[test]
fn many_are_asked_for_at_a_time() {
    let bucket = Bucket::new("many");
    bucket.fails(Fault::Slow, "", 0, usize::MAX);
    let machine = Machine::at(&bucket.address());
    let wanted: Vec<Key> = (0..1000).map(|number| preimage(number).key()).collect();
    let start = Instant::now();
    assert!(machine.remote.records(&wanted).iter().all(Option::is_none));
    assert_eq!(bucket.log().len(), 1000);
    // One after the other would take ten seconds for the waiting alone.
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}

#[test]
fn addresses_that_make_no_sense_are_refused() {
    for address in ["ftp://host/x", "s3://", "http://host/bucket"] {
        let usage = Use { writes: true, patience: PATIENCE };
        assert!(Remote::open(address, usage).is_err(), "{address}");
    }
}
