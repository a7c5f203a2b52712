//! Builds the four programs: for packages so that they run with an old glibc, for the archive so that they run with none.
//!
//! Static ones are another target of Rust's (musl), every crate compiled again, their C by zig. Of those for glibc
//! only the last link differs from any other build: zig knows which symbols each glibc had, and brings its start files. Cargo
//! is told to do that link, and nothing else, again by a variable that the programs' `main.rs` name; it finds the linker as
//! the `cc` that comes first on the path. So packages of the release build share all crates with the end-to-end tests, and are
//! linked in seconds. What an object would need of a newer glibc is an undefined symbol, and the link fails.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::package::{GLIBC, Libc, PACKAGES};
use super::{call, need, output};

/// Builds and copies into `dir`.
pub(super) fn build(root: &Path, profile: &str, libc: Libc, dir: &Path) -> Result<PathBuf> {
    let tools = tools(root)?;
    std::fs::create_dir_all(dir)?;
    let mut cargo = crate::cargo(root);
    cargo.args(["build", "--locked", "--profile", profile, "--bins"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cargo.args(PACKAGES.iter().map(|package| format!("-p{}", package.name)));
    match libc {
        Libc::Glibc => {
            // The checker of histories is not packaged: with it, this is what the end-to-end tests build, features and all.
            cargo.arg("-ptailway-history");
            let mut path = linker(&tools)?.into_os_string();
            path.push(":");
            path.push(std::env::var_os("PATH").unwrap_or_default());
            let linked_for = format!("glibc {}.{}", GLIBC.0, GLIBC.1);
            cargo.env("PATH", path).env("TAILWAY_LINKED_FOR", linked_for);
        }
        Libc::Musl => {
            need_target(libc.target())?;
            let (cc, ar) = static_tools(&tools)?;
            cargo.args(["--target", libc.target()]);
            // For cc, which compiles C for crates, and for cargo, which links.
            cargo.env("CC_x86_64_unknown_linux_musl", &cc).env("AR_x86_64_unknown_linux_musl", ar);
            cargo.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER", cc);
            cargo.env("TAILWAY_LINKED_FOR", "static-pie");
        }
    }
    if profile == "dist" {
        // Its crates are shared with nothing, so their paths need not be this machine's.
        cargo.env("RUSTFLAGS", remap(root));
    }
    eprintln!("$ {cargo:?}");
    let messages = cargo.stderr(Stdio::inherit()).output()?;
    ensure!(messages.status.success(), "cannot build the programs: {}", messages.status);
    let messages = String::from_utf8_lossy(&messages.stdout);
    for package in PACKAGES {
        let program = executable(&messages, package.name)
            .with_context(|| format!("cargo built no program {}", package.name))?;
        std::fs::copy(&program, dir.join(package.name))
            .with_context(|| program.display().to_string())?;
        call(Command::new("strip").arg(dir.join(package.name)))?;
    }
    Ok(dir.to_path_buf())
}

/// Rust's own libraries for a target, which rustup has and a distribution's Rust may have.
fn need_target(target: &str) -> Result<()> {
    let libdir = ["--print", "target-libdir", "--target", target];
    let libdir = PathBuf::from(output(Command::new("rustc").args(libdir))?.trim());
    let is_there = std::fs::read_dir(&libdir).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|f| f.file_name().to_string_lossy().starts_with("libstd-")))
    });
    ensure!(
        is_there,
        "Rust's libraries for {target} are missing in {}, and the archive's programs are static\n  next: rustup target add {target}",
        libdir.display()
    );
    Ok(())
}

/// The program of this name in cargo's JSON messages, one a line.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message.get("executable")?.as_str().map(PathBuf::from))
        .find(|path| path.ends_with(name))
}

/// Paths as they are on no machine, so that the same commit gives the same bytes on each.
fn remap(root: &Path) -> String {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let places = [(Some(root.to_path_buf()), "/tailway"), (cargo, "/cargo")];
    let flag = |(from, to): (Option<PathBuf>, &str)| {
        from.map(|from| format!("--remap-path-prefix={}={to}", from.display()))
    };
    places.into_iter().filter_map(flag).collect::<Vec<_>>().join(" ")
}

/// Where zig is: what `packaging/linker.txt` pins, installed by pip, checked by hash, once.
fn tools(root: &Path) -> Result<PathBuf> {
    need("python3", "python3")?;
    let pins = root.join("packaging/linker.txt");
    let tools = root.join("target/linker");
    let stamp = tools.join("pins");
    let wanted = std::fs::read(&pins).with_context(|| pins.display().to_string())?;
    if std::fs::read(&stamp).ok().as_deref() != Some(wanted.as_slice()) {
        call(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&tools))
            .context("cannot make a Python environment: apt-get install python3-venv")?;
        let mut pip = Command::new(tools.join("bin/pip"));
        pip.args([
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
            "-r",
        ]);
        call(pip.arg(&pins))?;
        std::fs::write(&stamp, &wanted)?;
    }
    Ok(tools)
}

/// A folder with a `cc` that links programs by zig and leaves everything else to this host's.
fn linker(tools: &Path) -> Result<PathBuf> {
    let cc = output(Command::new("sh").args(["-c", "command -v cc"]))
        .context("there is no C compiler: apt-get install gcc libc6-dev")?;
    let script = format!(
        "#!/bin/sh\n# Compiling and shared objects (macros of the compiler) are this host's.\nfor word do\n    case $word in\n    \
         -c | -E | -S | -shared | --version | -v | -print-*) exec {cc} \"$@\" ;;\n    esac\ndone\nexport PATH={tools}/bin:\"$PATH\"\n\
         exec cargo-zigbuild zig cc -- -target x86_64-linux-gnu.{}.{} \"$@\"\n",
        GLIBC.0,
        GLIBC.1,
        cc = cc.trim(),
        tools = tools.display()
    );
    let dir = tools.join("path");
    script_at(&dir.join("cc"), &script)?;
    Ok(dir)
}

/// A C compiler and an archiver of zig's for static programs: no header and no library of this host is in them.
fn static_tools(tools: &Path) -> Result<(PathBuf, PathBuf)> {
    let dir = tools.join("static");
    let [cc, ar] = ["cc", "ar"].map(|name| dir.join(name));
    let zig = format!("#!/bin/sh\nexport PATH={}/bin:\"$PATH\"\n", tools.display());
    // The wrapper drops `-static-pie`, which rustc asks for; without a word zig links for a fixed address.
    let compile = "more=\nfor word do\n    [ \"$word\" != -static-pie ] || more=-pie\ndone\n\
                   exec cargo-zigbuild zig cc -- -target x86_64-linux-musl \"$@\" $more\n";
    script_at(&cc, &format!("{zig}{compile}"))?;
    script_at(&ar, &format!("{zig}exec cargo-zigbuild zig ar -- \"$@\"\n"))?;
    Ok((cc, ar))
}

fn script_at(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, text).with_context(|| path.display().to_string())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}
