//! Histories in files: a folder for a test, a file for a recorder.
//!
//! Each event is one write to the file, made before the next call of the process, and no buffer of its own: so what was
//! recorded is read by the parent even when the process was killed a moment later.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::Event;

/// Appends events to a file, from any number of tasks.
///
/// ```
/// use larder_testkit::history::{Event, Kind, Recorder, now, read_files};
///
/// let folder = tempfile::tempdir().unwrap();
/// let recorder = Recorder::create(folder.path(), 3).unwrap();
/// let start = now();
/// let seen = Some(1); // what the cache said
/// recorder.record(&Event { process: 3, task: 0, key: 7, start, end: now(), kind: Kind::Read(seen) }).unwrap();
/// assert_eq!(read_files(folder.path()).unwrap().len(), 1);
/// ```
#[derive(Debug)]
pub struct Recorder(File);

impl Recorder {
    /// A new file in `folder`, named after the process.
    ///
    /// # Errors
    ///
    /// The error of the file system, also if there is a file for this number already.
    pub fn create(folder: &Path, process: u32) -> io::Result<Self> {
        let path = folder.join(format!("process-{process}"));
        Ok(Self(File::options().append(true).create_new(true).open(path)?))
    }

    /// Appends one event; when it returns, the event outlives the process.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn record(&self, event: &Event) -> io::Result<()> {
        let mut line = event.to_line();
        line.push('\n');
        (&self.0).write_all(line.as_bytes())
    }
}

/// The events of all files in `folder`, in the order of their starts. A last line without a line break is left out: its
/// process was killed while it wrote it.
///
/// # Errors
///
/// The error of the file system; [`ErrorKind::InvalidData`] if a line is no event.
pub fn read_files(folder: &Path) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for (number, line) in whole.lines().enumerate() {
            let event = Event::from_line(line).ok_or_else(|| {
                let place = format!("line {} of {}", number + 1, path.display());
                io::Error::new(ErrorKind::InvalidData, format!("{place} is no event: {line:?}"))
            })?;
            events.push(event);
        }
    }
    events.sort_by_key(|event| event.start);
    Ok(events)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says so by panicking")]
mod tests {
    use super::super::Kind;
    use super::*;

    fn event(process: u32, start: u64) -> Event {
        Event { process, task: 0, key: 1, start, end: start + 1, kind: Kind::Write(start) }
    }

    #[test]
    fn what_several_recorders_wrote_is_read_in_the_order_of_time() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_files(folder.path()).unwrap(), []);
        let one = Recorder::create(folder.path(), 1).unwrap();
        let two = Recorder::create(folder.path(), 2).unwrap();
        assert!(Recorder::create(folder.path(), 2).is_err());
        one.record(&event(1, 30)).unwrap();
        two.record(&event(2, 20)).unwrap();
        one.record(&event(1, 40)).unwrap();
        assert_eq!(read_files(folder.path()).unwrap(), [event(2, 20), event(1, 30), event(1, 40)]);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_torn_other_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("process-1");
        // Torn, the version 12 would be read as 1.
        fs::write(&path, "1 0 1 10 11 w 11\n1 0 1 20 21 w 1").unwrap();
        let kinds: Vec<Kind> =
            read_files(folder.path()).unwrap().into_iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [Kind::Write(11)]);
        fs::write(&path, "1 0 1 10").unwrap();
        assert_eq!(read_files(folder.path()).unwrap(), []);
        fs::write(&path, "1 0 1 10\n1 0 1 20 21 w 2\n").unwrap();
        assert_eq!(read_files(folder.path()).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
