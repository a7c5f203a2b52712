//! Debian packages, by dpkg-deb.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::Result;

use super::components::Component;
use super::package::{DEB_ARCH, GLIBC, LICENCE, MAINTAINER, Package};
use super::stage::{self, Layout, Tree};
use super::{Job, call, fill, output};

const LAYOUT: Layout = Layout { prefix: "usr/", zsh: "share/zsh/vendor-completions" };

pub(super) fn build(job: &Job<'_>, package: &Package, components: &[Component]) -> Result<()> {
    let tree = Tree::new(job.work.join("deb").join(package.name))?;
    stage::fill(job, package, components, &tree, &LAYOUT)?;
    let doc = format!("usr/share/doc/{}", package.name);
    tree.write(&format!("{doc}/copyright"), copyright(job)?.as_bytes(), 0o644)?;
    let overrides = fill(job.root, "deb/lintian-overrides", &[("PACKAGE", package.name)])?;
    let place = format!("usr/share/lintian/overrides/{}", package.name);
    tree.write(&place, overrides.as_bytes(), 0o644)?;
    tree.gzip(&format!("{doc}/changelog"), changelog(job, package)?.as_bytes())?;
    if package.daemon.is_some() {
        tree.dir("etc/tailway")?;
    }
    let sums = "find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum";
    let sums = output(Command::new("sh").args(["-ec", sums]).current_dir(&tree.top))?;
    let size =
        output(Command::new("du").args(["-sk", "--apparent-size", "usr"]).current_dir(&tree.top))?;
    let size = size.split_whitespace().next().unwrap_or("0").to_owned();
    let control = Tree::new(tree.top.join("DEBIAN"))?;
    control.write("md5sums", sums.as_bytes(), 0o644)?;
    control.write("control", control_file(job, package, &size)?.as_bytes(), 0o644)?;
    scripts(job, package, &control)?;
    let file = format!("{}_{}_{DEB_ARCH}.deb", package.name, job.release.version);
    call(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", &format!("-z{}", job.level), "--build"])
            .args([&tree.top, &job.out.join(file)])
            .env("SOURCE_DATE_EPOCH", &job.release.epoch),
    )
}

fn control_file(job: &Job<'_>, package: &Package, size: &str) -> Result<String> {
    let mut depends = format!("libc6 (>= {}.{})", GLIBC.0, GLIBC.1);
    if package.daemon.is_some() {
        // The command enrols a host. No version, so that one daemon can go back without the others.
        depends.push_str(
            ", tailway, debconf (>= 0.5) | debconf-2.0, systemd | systemd-standalone-sysusers",
        );
    }
    let mut text = format!(
        "Package: {}\nVersion: {}\nArchitecture: {DEB_ARCH}\nMaintainer: {MAINTAINER}\nInstalled-Size: {size}\n\
         Depends: {depends}\nSection: admin\nPriority: optional\nDescription: {}\n",
        package.name, job.release.version, package.summary
    );
    for line in package.description.lines() {
        writeln!(text, " {line}")?;
    }
    Ok(text)
}

fn scripts(job: &Job<'_>, package: &Package, control: &Tree) -> Result<()> {
    let mut values = vec![("PACKAGE", package.name), ("NEXT", package.next)];
    let names: &[(&str, &str, u32)] = if let Some(daemon) = &package.daemon {
        let restart = if daemon.restart { "yes" } else { "no" };
        values.extend([("DAEMON", daemon.name), ("STATE", daemon.state), ("RESTART", restart)]);
        &[
            ("deb/postinst", "postinst", 0o755),
            ("deb/prerm", "prerm", 0o755),
            ("deb/postrm", "postrm", 0o755),
            ("deb/config", "config", 0o755),
            ("deb/templates", "templates", 0o644),
        ]
    } else {
        &[("deb/postinst-cli", "postinst", 0o755)]
    };
    for (template, name, mode) in names {
        control.write(name, fill(job.root, template, &values)?.as_bytes(), *mode)?;
    }
    Ok(())
}

fn copyright(job: &Job<'_>) -> Result<String> {
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: Tailway\nSource: \
         {}\n\nFiles: *\nCopyright: Copyright {} The Tailway authors\nLicense: {LICENCE}\n On Debian systems, the text of this \
         licence is in\n /usr/share/common-licenses/Apache-2.0. What is linked in is listed, with all\n texts, in \
         third-party-licences.txt.gz beside this file.\n",
        env!("CARGO_PKG_REPOSITORY"),
        job.release.date("+%Y")?
    ))
}

fn changelog(job: &Job<'_>, package: &Package) -> Result<String> {
    Ok(format!(
        "{} ({}) stable; urgency=medium\n\n  * Built from commit {}.\n\n -- {MAINTAINER}  {}\n",
        package.name,
        job.release.version,
        job.release.commit,
        job.release.date("--rfc-email")?
    ))
}
