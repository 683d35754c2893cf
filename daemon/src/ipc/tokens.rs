//! The bearer tokens of the TCP door: where they stand, and who each one is. Invariant: a token is kept as its digest alone,
//! compared in constant time, and never shown; two names are never one user.
use crate::config::own_uid;
use hyprstream_model::open_regular;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The credential that systemd hands over (`LoadCredential=`).
const CREDENTIAL: &str = "hyprstream.tokens";
const FILE_BYTES_MAX: u64 = 256 << 10;
const NAME_CHARS_MAX: usize = 64;
/// Shorter ones can be guessed.
const TOKEN_CHARS_MIN: usize = 16;
const TOKEN_CHARS_MAX: usize = 512;
/// From here on no system gives user ids away; a token's name makes one of 2^28.
const OWN_UIDS: u32 = 0xE000_0000;
const OWN_UIDS_MASK: u32 = 0x0FFF_FFFF;

/// All tokens.
#[derive(Debug, Default)]
pub struct Tokens(Vec<Token>);

/// One token.
#[derive(Debug)]
pub struct Token {
    /// What the journal calls it.
    pub name: String,
    /// Who it is: jobs, quotas and kept text belong to this user id.
    pub uid: u32,
    digest: blake3::Hash,
}

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// Nobody could use the door.
    #[error(
        "[tcp] listen is set and {} is missing: write a line `NAME TOKEN` for each client there, or give systemd the credential hyprstream.tokens; see hyprstreamd.toml(5)",
        .0.display()
    )]
    Missing(PathBuf),
    /// The system says no.
    #[error("the tokens in {} cannot be read: {source}; the file must belong to the daemon's user, or be a credential", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Secrets that are none.
    #[error("others may read or change the tokens in {0} (mode {mode:04o}): chmod 600 {0}, and write new ones if somebody may have seen them", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its rights.
        mode: u32,
    },
    /// Somebody else's secrets.
    #[error("the tokens in {} belong to user {owner}, not to root or the daemon's own user: chown it", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A mistake in the file.
    #[error("{}:{line}: {what}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Where.
        line: usize,
        /// What is wrong; never has the token.
        what: String,
    },
    /// A file without a token.
    #[error("{} has no token; write a line `NAME TOKEN` for each client", .0.display())]
    Empty(PathBuf),
}

impl Tokens {
    /// Reads systemd's credential where there is one, else `file`.
    pub fn read(file: &Path) -> Result<Tokens, TokensError> {
        let credential = std::env::var_os("CREDENTIALS_DIRECTORY");
        Tokens::read_from(credential.as_deref(), file)
    }

    fn read_from(credentials: Option<&OsStr>, file: &Path) -> Result<Tokens, TokensError> {
        let credential = credentials.map(|folder| Path::new(folder).join(CREDENTIAL));
        match credential.filter(|path| path.exists()) {
            // systemd sees to its rights, by an access list that looks like a group's.
            Some(path) => parse(&path, &load(&path, false)?),
            None => parse(file, &load(file, true)?),
        }
    }

    /// Whose token this is. Takes as long for every token that is wrong.
    pub fn find(&self, given: &[u8]) -> Option<&Token> {
        let given = blake3::hash(given);
        // Digests compare in constant time, and all are looked at.
        self.0.iter().fold(
            None,
            |found, token| if token.digest == given { Some(token) } else { found },
        )
    }

    /// Names and user ids, for the journal.
    pub fn in_words(&self) -> String {
        let words = self
            .0
            .iter()
            .map(|token| format!("{} (uid {})", token.name, token.uid));
        words.collect::<Vec<_>>().join(", ")
    }
}

fn load(path: &Path, check_rights: bool) -> Result<String, TokensError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => TokensError::Missing(path.to_owned()),
        _ => TokensError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    let file = open_regular(path).map_err(|error| unreadable(error.into()))?;
    let metadata = file.metadata().map_err(unreadable)?;
    if check_rights {
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        if owner != 0 && owner != own_uid() {
            let path = path.to_owned();
            return Err(TokensError::Foreign { path, owner });
        }
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(TokensError::Exposed { path, mode });
        }
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let large = io::Error::new(io::ErrorKind::InvalidData, "it is larger than 256 KiB");
        return Err(unreadable(large));
    }
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<Tokens, TokensError> {
    let (mut tokens, mut names, mut uids): (Vec<Token>, HashSet<&str>, HashSet<u32>) = Default::default();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: String| TokensError::Line {
            path: path.to_owned(),
            line: at + 1,
            what,
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, secret, uid) = match words.as_slice() {
            [name, secret] => (*name, *secret, None),
            [name, secret, uid] => (*name, *secret, Some(*uid)),
            _ => return Err(wrong("expected `NAME TOKEN` or `NAME TOKEN UID`".to_owned())),
        };
        check_words(name, secret).map_err(|what| wrong(what.to_owned()))?;
        let uid = match uid {
            None => own_uid_of(name),
            Some(uid) => given_uid(uid).ok_or_else(|| {
                wrong(format!(
                    "the user id must be a number from 1 to {}; a token is never the superuser",
                    OWN_UIDS - 1
                ))
            })?,
        };
        let digest = blake3::hash(secret.as_bytes());
        if !names.insert(name) {
            return Err(wrong(format!("the name {name} stands here twice")));
        }
        if tokens.iter().any(|token| token.digest == digest) {
            return Err(wrong(format!("the token of {name} is another one's too")));
        }
        // A user may have several tokens; two names that make one id may not.
        if !uids.insert(uid) && uid >= OWN_UIDS {
            return Err(wrong(format!("give {name} another name: its id is taken")));
        }
        tokens.push(Token {
            name: name.to_owned(),
            uid,
            digest,
        });
    }
    if tokens.is_empty() {
        return Err(TokensError::Empty(path.to_owned()));
    }
    Ok(Tokens(tokens))
}

fn check_words(name: &str, secret: &str) -> Result<(), &'static str> {
    let sane = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.len() > NAME_CHARS_MAX || !name.bytes().all(sane) {
        return Err("a name has up to 64 letters, digits, `-`, `_` and `.`");
    }
    // What RFC 6750 lets a bearer token be.
    let fits = |b: u8| sane(b) || matches!(b, b'~' | b'+' | b'/' | b'=');
    if secret.len() > TOKEN_CHARS_MAX || !secret.bytes().all(fits) {
        return Err("a token has up to 512 letters, digits and `-._~+/=`");
    }
    if secret.len() < TOKEN_CHARS_MIN {
        return Err(
            "the token is shorter than 16 characters and could be guessed; `openssl rand -hex 32` makes one",
        );
    }
    Ok(())
}

/// The same after every restart.
fn own_uid_of(name: &str) -> u32 {
    let [a, b, c, d, ..] = *blake3::hash(name.as_bytes()).as_bytes();
    OWN_UIDS | (u32::from_le_bytes([a, b, c, d]) & OWN_UIDS_MASK)
}

fn given_uid(text: &str) -> Option<u32> {
    text.parse().ok().filter(|uid| (1..OWN_UIDS).contains(uid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const A: &str = "aaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbb";

    fn from(text: &str) -> Result<Tokens, String> {
        parse(Path::new("t"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn each_token_is_a_user_of_its_own() {
        let text = format!("# ours\n\nlaptop {A}\n phone\t{B} 1000 \n");
        let tokens = from(&text).unwrap();
        let laptop = tokens.find(A.as_bytes()).unwrap();
        assert_eq!(laptop.name, "laptop");
        assert!(laptop.uid >= OWN_UIDS);
        assert_eq!(laptop.uid, from(&text).unwrap().find(A.as_bytes()).unwrap().uid);
        assert_eq!(tokens.find(B.as_bytes()).unwrap().uid, 1000);
        for wrong in ["", "a", &A[1..], &format!("{A}a"), &A.to_uppercase()] {
            assert!(tokens.find(wrong.as_bytes()).is_none(), "{wrong}");
        }
        assert!(tokens.in_words().contains("laptop"));
        assert!(!format!("{tokens:?} {}", tokens.in_words()).contains(A));
    }

    #[test]
    fn mistakes_have_a_line_and_never_the_token() {
        for (text, said) in [
            ("laptop".to_owned(), "t:1: expected"),
            (format!("laptop {A} 7 8"), "t:1: expected"),
            ("laptop short".to_owned(), "t:1: the token is shorter"),
            (format!("a {A}\nb {A}"), "t:2: the token of b"),
            (format!("a {A}\na {B}"), "t:2: the name a"),
            (format!("a/b {A}"), "t:1: a name"),
            (format!("a {A}\u{e9}"), "t:1: a token"),
            (format!("root {A} 0"), "never the superuser"),
            (format!("me {A} -1"), "user id"),
            (format!("me {A} 4294967295"), "user id"),
            ("# none\n".to_owned(), "no token"),
        ] {
            let error = from(&text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
            assert!(!error.contains(A), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let missing = Tokens::read_from(None, &path).unwrap_err();
        assert!(matches!(missing, TokensError::Missing(_)));
        fs::write(&path, format!("laptop {A}\n")).unwrap();
        for mode in [0o644, 0o640, 0o620, 0o604] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Tokens::read_from(None, &path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Tokens::read_from(None, &path).unwrap();
        let credential = folder.path().join(CREDENTIAL);
        fs::write(&credential, format!("phone {B}\n")).unwrap();
        let tokens = Tokens::read_from(Some(folder.path().as_os_str()), &path).unwrap();
        assert!(tokens.find(B.as_bytes()).is_some() && tokens.find(A.as_bytes()).is_none());
        fs::write(&path, [b'#'; 300_000]).unwrap();
        assert!(matches!(
            Tokens::read_from(None, &path),
            Err(TokensError::Unreadable { .. })
        ));
    }
}
