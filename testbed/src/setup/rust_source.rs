//! Which of Debian's packages of Rust fit together, for where rustup's server does not
//! answer.
//!
//! The libraries of a target can be built from Rust's source, but by the compiler of
//! exactly that version alone. Debian's backports go on to the next version when it
//! appears, and keep old source only while some architecture lags behind.

use std::fmt;

/// The packages that matter.
pub const NAMES: [&str; 3] = [SOURCE, COMPILER, LIBRARY];
/// Rust's source.
pub const SOURCE: &str = "rust-src";
/// The compiler.
pub const COMPILER: &str = "rustc";
/// The library that the compiler builds programs of its own machine on.
pub const LIBRARY: &str = "libstd-rust-dev";

/// The architecture whose compiler is wanted, and that of packages for all.
const MACHINE: &str = "amd64";

/// A package of one version, as an index lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    name: String,
    version: String,
}

/// What is to be got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The source of this version, for the toolchain that is there.
    Source(String),
    /// The source of this version and the compiler that fits it.
    Pair(String),
}

/// That no packages fit: what was looked for, and what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NothingFits {
    /// The toolchain's release.
    release: String,
    /// The oldest release that would do.
    oldest: String,
    sources: Vec<String>,
    compilers: Vec<String>,
}

impl fmt::Display for NothingFits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |versions: &[String]| match versions {
            [] => "none".to_owned(),
            versions => versions.join(", "),
        };
        write!(
            f,
            "neither {SOURCE} of {}, nor {COMPILER}, {LIBRARY} and {SOURCE} of one version, {} \
             or newer: of {SOURCE} there is {}, of {COMPILER} {}",
            self.release,
            self.oldest,
            list(&self.sources),
            list(&self.compilers)
        )
    }
}

/// Reads what `apt-cache madison` prints: a package, a version and where it is on each
/// line, the newest version of a package first.
#[must_use]
pub fn listed(text: &str) -> Vec<Listed> {
    let mut all = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('|').map(str::trim);
        let (Some(name), Some(version), Some(place)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let listed = Listed {
            name: name.to_owned(),
            version: version.to_owned(),
        };
        let here = place.split(' ').any(|word| word == MACHINE);
        if here && NAMES.contains(&name) && !all.contains(&listed) {
            all.push(listed);
        }
    }
    all
}

/// Picks from what is listed: source of the toolchain's `release`, or else the newest
/// compiler whose source is there, from `oldest` on.
///
/// # Errors
///
/// [`NothingFits`].
pub fn choose(release: &str, oldest: &str, listed: &[Listed]) -> Result<Choice, NothingFits> {
    let versions = |name: &str| -> Vec<String> {
        let named = listed.iter().filter(|one| one.name == name);
        named.map(|one| one.version.clone()).collect()
    };
    let (sources, compilers, libraries) = (versions(SOURCE), versions(COMPILER), versions(LIBRARY));
    if let Some(version) = sources.iter().find(|version| upstream(version) == release) {
        return Ok(Choice::Source(version.clone()));
    }
    let least = number(oldest);
    let newest = compilers
        .iter()
        .filter(|version| sources.contains(version) && libraries.contains(version))
        .filter(|version| number(upstream(version)) >= least)
        // Of equals the first, which is the newest revision of the package.
        .rev()
        .max_by_key(|version| number(upstream(version)));
    match newest {
        Some(version) => Ok(Choice::Pair(version.clone())),
        None => Err(NothingFits {
            release: release.to_owned(),
            oldest: oldest.to_owned(),
            sources,
            compilers,
        }),
    }
}

/// The release of Rust in a package's version, such as `1.95.0+dfsg1-2~bpo13+1`.
fn upstream(version: &str) -> &str {
    let end = version.find(['+', '-', '~']);
    &version[..end.unwrap_or(version.len())]
}

/// A release as numbers that can be compared.
fn number(release: &str) -> Vec<u32> {
    let parts = release.split('.');
    parts.map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index: packages, each with its versions.
    fn index(packages: &[(&str, &[&str])]) -> Vec<Listed> {
        let mut all = Vec::new();
        for (name, versions) in packages {
            all.extend(versions.iter().map(|version| Listed {
                name: (*name).to_owned(),
                version: (*version).to_owned(),
            }));
        }
        all
    }

    const V97: &str = "1.97.1+dfsg1-1~bpo13+1";
    const V96: &str = "1.96.1+dfsg1-2~bpo13+1";
    const V95: &str = "1.95.0+dfsg1-2~bpo13+1";
    const V95_OLDER: &str = "1.95.0+dfsg1-1~bpo13+1";
    const V63: &str = "1.63.0+dfsg1-2";

    fn pick(packages: &[(&str, &[&str])]) -> Result<Choice, NothingFits> {
        choose("1.95.0", "1.95", &index(packages))
    }

    #[test]
    fn source_of_the_toolchain_is_taken_first() {
        let packages: [(&str, &[&str]); 3] = [
            (SOURCE, &[V97, V96, V95, V95_OLDER, V63]),
            (COMPILER, &[V97, V63]),
            (LIBRARY, &[V97, V63]),
        ];
        assert_eq!(pick(&packages), Ok(Choice::Source(V95.to_owned())));
        assert_eq!(
            pick(&[(SOURCE, &[V95_OLDER])]),
            Ok(Choice::Source(V95_OLDER.to_owned()))
        );
    }

    #[test]
    fn a_release_is_compared_whole() {
        // 1.95.0 is none of these.
        let near = ["1.95.01-1", "11.95.0-1", "1.95.0.1-1", "1.95-1"];
        assert!(pick(&[(SOURCE, &near)]).is_err());
    }

    #[test]
    fn a_newer_pair_stands_in_when_the_source_is_gone() {
        let packages: [(&str, &[&str]); 3] = [
            (SOURCE, &[V97, V96, V63]),
            (COMPILER, &[V97, V63]),
            (LIBRARY, &[V97, V63]),
        ];
        assert_eq!(pick(&packages), Ok(Choice::Pair(V97.to_owned())));
    }

    #[test]
    fn the_newest_pair_is_taken_as_numbers_go() {
        let (v100, v99) = ("1.100.0-1", "1.99.0-1");
        for versions in [[v99, v100], [v100, v99]] {
            let packages = NAMES.map(|name| (name, &versions[..]));
            assert_eq!(pick(&packages), Ok(Choice::Pair(v100.to_owned())));
        }
        // Two revisions of one release: the one that apt lists first.
        let revisions = ["1.97.1-2", "1.97.1-1"];
        let packages = NAMES.map(|name| (name, &revisions[..]));
        assert_eq!(pick(&packages), Ok(Choice::Pair("1.97.1-2".to_owned())));
    }

    #[test]
    fn the_two_have_to_be_of_one_version() {
        // Source without a compiler, and a compiler that is of the next revision.
        assert!(pick(&[(SOURCE, &[V97]), (LIBRARY, &[V97])]).is_err());
        let next = "1.97.1+dfsg1-2~bpo13+1";
        let packages: [(&str, &[&str]); 3] =
            [(SOURCE, &[V97]), (COMPILER, &[next]), (LIBRARY, &[next])];
        assert!(pick(&packages).is_err());
        // A compiler without source, and one without its library.
        assert!(pick(&[(COMPILER, &[V97]), (LIBRARY, &[V97])]).is_err());
        assert!(pick(&[(SOURCE, &[V97]), (COMPILER, &[V97])]).is_err());
        // Then an older pair is the one.
        let packages: [(&str, &[&str]); 3] = [
            (SOURCE, &[V97, V96]),
            (COMPILER, &[next, V96]),
            (LIBRARY, &[V97, V96]),
        ];
        assert_eq!(pick(&packages), Ok(Choice::Pair(V96.to_owned())));
    }

    #[test]
    fn what_is_there_is_said_when_nothing_fits() {
        let packages: [(&str, &[&str]); 3] =
            [(SOURCE, &[V97, V63]), (COMPILER, &[V63]), (LIBRARY, &[V63])];
        let error = pick(&packages).expect_err("1.63 is too old");
        assert_eq!(
            error.to_string(),
            "neither rust-src of 1.95.0, nor rustc, libstd-rust-dev and rust-src of one version, \
             1.95 or newer: of rust-src there is 1.97.1+dfsg1-1~bpo13+1, 1.63.0+dfsg1-2, of \
             rustc 1.63.0+dfsg1-2"
        );
        let error = pick(&[]).expect_err("there is nothing");
        assert!(
            error.to_string().contains("there is none, of rustc none"),
            "{error}"
        );
    }

    #[test]
    fn an_index_is_read() {
        let text = "  rust-src | 1.97.1+dfsg1-1~bpo13+1 | http://deb.debian.org/debian trixie-backports/main amd64 Packages\n\
                    \x20 rust-src | 1.97.1+dfsg1-1~bpo13+1 | http://deb.debian.org/debian trixie-backports/main arm64 Packages\n\
                    \x20    rustc | 1.63.0+dfsg1-2 | http://deb.debian.org/debian bookworm/main amd64 Packages\n\
                    \x20    rustc | 1.97.1+dfsg1-1~bpo13+1 | http://deb.debian.org/debian trixie-backports/main arm64 Packages\n\
                    \x20    cargo | 1.97.1 | http://deb.debian.org/debian trixie-backports/main amd64 Packages\n\
                    N: something else\n\
                    rustc | half a line\n";
        let packages: [(&str, &[&str]); 2] = [(SOURCE, &[V97]), (COMPILER, &[V63])];
        assert_eq!(listed(text), index(&packages));
        assert!(listed("").is_empty());
    }
}
