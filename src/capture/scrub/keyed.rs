//! Values that are known by what stands before them: passwords, serial numbers, ids, names of machines.

use super::{Kind, Scrubber};

impl Scrubber {
    /// A value whose key says what it is: `UUID=…`, `SerialNumber: …`, `by-id/…`, `passwd='…'`, `<serial>…`.
    pub(super) fn after_key(&self, rest: &str, done: &str) -> Option<(usize, String)> {
        let tail = done.trim_end_matches(['\'', '"']);
        let quote = done.chars().next_back().filter(|last| matches!(last, '\'' | '"'));
        let ends = |key: &&str| {
            let from = tail.len().checked_sub(key.len());
            from.and_then(|from| tail.get(from..)).is_some_and(|have| have.eq_ignore_ascii_case(key))
        };
        let until = |also: &[char]| {
            let end = |c: char| match quote {
                Some(quote) => c == quote || c == '\n',
                None => c.is_whitespace() || matches!(c, '\'' | '"' | '<' | '>') || also.contains(&c),
            };
            rest.get(..rest.find(end).unwrap_or(rest.len())).filter(|value| !value.is_empty())
        };
        if SECRETS.iter().any(&ends) {
            return until(&[]).map(|value| (value.len(), self.hidden()));
        }
        if SENTENCES.iter().any(&ends) {
            self.count(Kind::Files);
            return rest.find('<').filter(|length| *length > 0).map(|length| (length, "left-out".to_owned()));
        }
        if ends(&"ip=") {
            return self.own_address(until(&[])?);
        }
        if HOSTS.iter().any(&ends) {
            // RFC 3986, 3.2: a user and a password may stand before the name.
            let more: &[char] = if tail.ends_with("://") { &[] } else { &[':', ']'] };
            return self.machine(until(&[&['/', ',', ';'], more].concat())?);
        }
        let kind = if SERIALS.iter().any(&ends) {
            Kind::Serial
        } else if IDS.iter().any(&ends)
            || ends(&"guid ") && rest.bytes().take(8).all(|byte| byte.is_ascii_hexdigit())
        {
            Kind::Uuid
        } else {
            return None;
        };
        let value = until(&[',', '&', ')', '/', ';'])?;
        // A UUID keeps its own way, so that it is the same where no key stands before it (`luks-UUID`: crypttab(5)).
        let bare = value.strip_prefix("luks-").unwrap_or(value);
        if let Some((_, other)) = self.uuid(bare).filter(|(length, _)| *length == bare.len()) {
            return Some((value.len(), value.replace(bare, &other)));
        }
        Some((value.len(), self.shape(value, kind)))
    }

    /// The name of some machine, or of someone on it. Addresses and fixed words go their own way.
    fn machine(&self, value: &str) -> Option<(usize, String)> {
        let address = value.trim_start_matches('[');
        let fixed = ["dhcp", "dhcp6", "on", "off", "any", "none", "root", "localhost"].contains(&value);
        if fixed || address.is_empty() || address.parse::<std::net::IpAddr>().is_ok() {
            return None;
        }
        let own = self.word(value, None).filter(|(length, _)| *length == value.len());
        Some(own.unwrap_or_else(|| (value.len(), self.shape(value, Kind::Host))))
    }

    /// `ip=client:server:gateway:mask:name:…` (Documentation/admin-guide/nfs/nfsroot.rst): the fifth is a name.
    fn own_address(&self, value: &str) -> Option<(usize, String)> {
        let mut inside = false;
        let fields: Vec<&str> = value
            .split(|c| {
                inside = (inside || c == '[') && c != ']';
                c == ':' && !inside
            })
            .collect();
        let named = fields.get(4).is_some_and(|name| !name.is_empty());
        let field = |(at, field): (usize, &&str)| {
            let name = if at == 4 { self.machine(field) } else { None };
            name.map_or_else(|| self.text(field), |(_, with)| with)
        };
        named.then(|| (value.len(), fields.iter().enumerate().map(field).collect::<Vec<_>>().join(":")))
    }
}

/// Keys whose value is hidden.
const SECRETS: &[&str] = &[
    "password=",
    "password: ",
    "passwd=",
    "passphrase=",
    "passphrase: ",
    "psk=",
    "secret=",
    "token=",
    "password ",
    "grub.pbkdf2.",
    "pass=",
    // With user and password in them: dracut.cmdline(7).
    "netroot=",
    "rd.iscsi.initiator=",
    "iscsi_initiator=",
    "cifsroot=",
];

/// Keys whose value is a sentence that somebody wrote.
const SENTENCES: &[&str] = &["<title>", "<description>"];

/// Keys whose value is, or begins with, the name of a machine or of someone on it: words of the kernel command line
/// (nfsroot.rst, dracut.cmdline(7)), of logind's sessions, of libvirt's disks.
const HOSTS: &[&str] = &[
    "hostname=",
    "nfsroot=",
    "root=nfs:",
    "root=nfs4:",
    "rd.nfs.domain=",
    "nfs4_unique_id=",
    "=http://",
    "=https://",
    "=ftp://",
    "=tftp://",
    "=nfs://",
    "=nfs:",
    ":http://",
    ":https://",
    "remote_host=",
    "remote_user=",
    "<host name=",
    "username=",
];

/// Keys whose value is a serial number, or holds one.
const SERIALS: &[&str] = &[
    "serial=",
    "serial_short=",
    "serialnumber: ",
    "serial number: ",
    "<serial>",
    "serial>",
    "by-id/",
    "wwid=",
    "wwn=",
    "uniq=",
    "serial: ",
    "'serial'>",
    "\"serial\">",
    "'asset'>",
    "wwn_with_extension=",
];

/// Keys whose value is the id of a filesystem or the like; many are UUIDs, FAT's and NTFS's are not.
const IDS: &[&str] =
    &["uuid=", "by-uuid/", "by-partuuid/", "uuid_enc=", "uuid_sub=", "uuid>", "machine_id=", "entry_uuid="];
