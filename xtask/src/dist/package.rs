//! The four packages: what each is called, needs and says.

/// One package, named as its program.
#[derive(Debug)]
pub(super) struct Package {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) description: &'static str,
    /// For those with a unit, a user and state.
    pub(super) daemon: Option<Daemon>,
    /// The one command to go on with.
    pub(super) next: &'static str,
}

#[derive(Debug)]
pub(super) struct Daemon {
    /// Of `/etc/tailway/NAME.yaml` and `/var/lib/tailway/NAME`.
    pub(super) name: &'static str,
    /// What its state directory holds, for the question of a purge.
    pub(super) state: &'static str,
    /// Whether an upgrade restarts it. Not a broker: with one broker, producers wait meanwhile, so the operator says when.
    pub(super) restart: bool,
}

pub(super) const PACKAGES: &[Package] = &[
    Package {
        name: "tailway",
        summary: "operator's command of the Tailway log pipeline",
        description: "Starts a pipeline to try (tailway dev), makes and joins clusters, and shows\n\
                      and changes what is in them: topics, groups, certificates, sinks.",
        daemon: None,
        next: "tailway dev FILE",
    },
    Package {
        name: "tailway-agent",
        summary: "ships log lines and host metrics to Kafka",
        description: "Follows files through every kind of rotation, samples the host, and produces\n\
                      each line once, in order, to Tailway's broker or to any Kafka.",
        daemon: Some(Daemon {
            name: "agent",
            state: "the agent's certificate and how far each file was shipped",
            restart: true,
        }),
        next: "tailway enroll COORDINATOR:9191 TOKEN",
    },
    Package {
        name: "tailway-broker",
        summary: "log broker that speaks the Kafka protocol",
        description: "Stores partitions in Kafka's on-disk format, answers after the bytes are on\n\
                      the disk, and forwards topics to OpenSearch and to other clusters.",
        daemon: Some(Daemon {
            name: "broker",
            state: "all records of this broker, consumer offsets and its certificate",
            restart: false,
        }),
        next: "tailway enroll COORDINATOR:9191 TOKEN --id NUMBER --name HOST",
    },
    Package {
        name: "tailway-coordinator",
        summary: "keeps membership and topics of a Tailway cluster",
        description: "Holds in a Raft log which brokers, topics and leaders there are, and issues\n\
                      the certificates of a cluster's members.",
        daemon: Some(Daemon {
            name: "coordinator",
            state: "the cluster's metadata and the key of its certificate authority",
            restart: true,
        }),
        next: "tailway coordinator init --name HOST",
    },
];

pub(super) const LICENCE: &str = "Apache-2.0";
/// Of a domain that is nobody's, until the project has one.
pub(super) const MAINTAINER: &str = "The Tailway engineers <packages@example.org>";
/// Of programs: what Debian and uname call it.
pub(super) const DEB_ARCH: &str = "amd64";
pub(super) const UNAME_ARCH: &str = "x86_64";
/// The oldest glibc that the programs run with.
pub(super) const GLIBC: (u32, u32) = (2, 28);

/// Which C library is in programs, or asked of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Libc {
    /// The host's, of `GLIBC` or newer: in packages.
    Glibc,
    /// In the program itself: in the archive.
    Musl,
}

impl Libc {
    /// As Rust calls it.
    pub(super) fn target(self) -> &'static str {
        match self {
            Self::Glibc => "x86_64-unknown-linux-gnu",
            Self::Musl => "x86_64-unknown-linux-musl",
        }
    }
}
