//! The terminal as long as it shows nothing of what is typed.
//!
//! For `password`. It is silenced before the first prompt, since whoever sees a prompt may type at once, and is as it was
//! when this is dropped. Lines are edited by the terminal itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use zeroize::Zeroizing;

/// The process's terminal, whatever standard input and output are.
pub(super) struct Terminal {
    file: File,
    before: Termios,
}

impl Terminal {
    /// From here on it is silent.
    pub(super) fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&file)?;
        let mut silent = before.clone();
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL);
        silent.local_modes.insert(LocalModes::ICANON);
        // A signal would end the process before it can undo this; as ends of a line they are obeyed here.
        silent.local_modes.remove(LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        silent.special_codes[SpecialCodeIndex::VEOL2] = QUIT;
        tcsetattr(&file, OptionalActions::Now, &silent)?;
        Ok(Self { file, before })
    }

    /// Shows the prompt, and takes a line without its end.
    pub(super) fn ask(&mut self, prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        self.file.write_all(prompt.as_bytes())?;
        let line = self.line();
        self.file.write_all(b"\n")?;
        line
    }

    fn line(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        // A terminal gives one line at a time, never more than this of it.
        let mut line = Zeroizing::new(vec![0; LINE]);
        let length = self.file.read(&mut line)?;
        line.truncate(length);
        match line.last() {
            None => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(&(INTERRUPT | QUIT)) => Err(io::ErrorKind::Interrupted.into()),
            // What did not fit is lost.
            Some(_) if length >= LINE => Err(io::ErrorKind::FileTooLarge.into()),
            Some(b'\n') => {
                line.truncate(length - 1);
                Ok(line)
            }
            Some(_) => Ok(line),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // One that is gone shows nothing.
        let _gone = tcsetattr(&self.file, OptionalActions::Now, &self.before);
    }
}

/// Ctrl-C.
const INTERRUPT: u8 = 0x03;
/// Ctrl-backslash.
const QUIT: u8 = 0x1c;
/// Linux keeps 4095 bytes of a line and its end.
const LINE: usize = 4096;
