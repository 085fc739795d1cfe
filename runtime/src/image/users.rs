//! Users of an image: names in its /etc/passwd and /etc/group, as `USER` of an image config and `runAsUser` mean them.

use super::Image;

/// The identity that a process of the image gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Groups of /etc/group that list the user.
    pub additional_gids: Vec<u32>,
    pub home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        Some(Passwd {
            name: f.first()?,
            uid: f.get(2)?.parse().ok()?,
            gid: f.get(3)?.parse().ok()?,
            home: f.get(5).copied().unwrap_or("/"),
        })
    })
}

/// Name, gid and members of each group.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        Some((*f.first()?, f.get(2)?.parse().ok()?, f.get(3).copied().unwrap_or_default()))
    })
}

impl Image {
    /// Resolves `user`, `uid`, `user:group` or `uid:gid`; the empty text is root.
    ///
    /// # Errors
    /// A name that the image's passwd or group file does not have: `unable to find user x: …`.
    pub fn resolve_user(&self, text: &str) -> Result<ResolvedUser, String> {
        let read = |path| self.read_file(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
        resolve(text, &read("etc/passwd"), &read("etc/group"))
    }
}

fn resolve(text: &str, passwd_file: &str, group_file: &str) -> Result<ResolvedUser, String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    let user = if user.is_empty() { "0" } else { user };
    let number: Option<u32> = user.parse().ok();
    let entry = passwd(passwd_file).find(|p| number.map_or(p.name == user, |n| p.uid == n));
    let mut out = match (&entry, number) {
        (Some(p), _) => ResolvedUser { uid: p.uid, gid: p.gid, additional_gids: Vec::new(), home: p.home.to_owned() },
        (None, Some(uid)) => ResolvedUser { uid, gid: 0, additional_gids: Vec::new(), home: "/".into() },
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    };
    if let Some(p) = &entry {
        out.additional_gids = groups(group_file)
            .filter(|(_, gid, members)| *gid != out.gid && members.split(',').any(|m| m == p.name))
            .map(|g| g.1)
            .collect();
    }
    if let Some(group) = group {
        let by_name = groups(group_file).find(|(name, _, _)| *name == group).map(|g| g.1);
        out.gid = by_name
            .or_else(|| group.parse().ok())
            .ok_or_else(|| format!("unable to find group {group}: no matching entries in group file"))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:www:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nextra:x:50:other,web\n";

    #[test]
    fn names_and_numbers_resolve() {
        let of = |t| resolve(t, PASSWD, GROUP);
        assert_eq!(of("").unwrap(), ResolvedUser { uid: 0, gid: 0, additional_gids: vec![], home: "/root".into() });
        assert_eq!(of("web").unwrap(), ResolvedUser { uid: 33, gid: 34, additional_gids: vec![50], home: "/var/www".into() });
        assert_eq!((of("33").unwrap().gid, of("1000").unwrap().gid), (34, 0));
        assert_eq!((of("web:extra").unwrap().gid, of("5:6").unwrap().gid), (50, 6));
        assert_eq!(of("ghost").unwrap_err(), "unable to find user ghost: no matching entries in passwd file");
        assert!(of("0:ghost").is_err());
    }
}
