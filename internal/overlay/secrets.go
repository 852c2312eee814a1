package overlay

// This file is what hull knows of the host's files by name. docs/do.md tells users the same.

// Programs are the directories of the root that are shown: where systems keep programs, their libraries and their
// configuration. Any other is empty, whatever it is called.
var Programs = []string{
	"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc", "/opt", "/var",
	"/nix", "/gnu", // stores of Nix and Guix
	"/snap",    // programs of snapd
	"/sysroot", // what links lead to on systems of ostree
}

// Private are the places below them that are empty: what users keep, what waits for others, what services have for
// themselves.
var Private = []string{
	"/var/tmp",
	"/var/home", "/var/roothome", // homes, on systems of ostree
	"/var/mail",
	"/var/spool",   // mail, jobs of cron and at, what is printed
	"/var/backups", // copies of passwd and shadow
	"/var/crash", "/var/lib/systemd/coredump",
	"/var/log/journal", "/var/log/audit",
	"/var/lib/private", // of services with DynamicUser=

	// Containers and virtual machines.
	"/var/lib/docker", "/var/lib/containerd", "/var/lib/containers", "/var/lib/kubelet", "/var/lib/rancher", "/var/lib/etcd",
	"/var/lib/lxc", "/var/lib/lxd", "/var/lib/incus", "/var/lib/machines", "/var/lib/libvirt", "/var/snap",

	// Databases, directories, what services have been told.
	"/var/lib/mysql", "/var/lib/postgresql", "/var/lib/pgsql", "/var/lib/mongodb", "/var/lib/redis", "/var/lib/ldap",
	"/var/lib/samba", "/var/lib/sss", "/var/lib/krb5kdc", "/var/lib/jenkins", "/var/lib/gitea",
	"/var/lib/tailscale", "/var/lib/bluetooth", "/var/lib/NetworkManager", "/var/lib/iwd", "/var/lib/tor",
	"/var/lib/cloud", // what a cloud has given the machine: user data often has passwords
}

// Secrets are files and directories that are covered where they would be seen, unless the caller names them or something
// in them. They may have the wildcards of filepath.Match.
var Secrets = []string{
	// Passwords, and who may become whom.
	"/etc/shadow*", "/etc/gshadow*", "/etc/security/opasswd", "/etc/tcb",
	"/etc/sudoers", "/etc/sudoers.d", "/etc/doas.conf",

	// Keys of the host.
	"/etc/ssh/ssh_host_*_key",
	"/etc/ssl/private", "/etc/pki/tls/private", "/etc/letsencrypt",
	"/etc/krb5.keytab", "/etc/krb5kdc",
	"/etc/wireguard", "/etc/openvpn", "/etc/ipsec.secrets", "/etc/ipsec.d/private", "/etc/swanctl/private",
	"/etc/cryptsetup-keys.d", "/etc/bind/rndc.key", "/etc/rndc.key",
	"/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret",

	// Networks.
	"/etc/NetworkManager/system-connections", "/etc/netplan", "/etc/wpa_supplicant",
	"/etc/ppp/chap-secrets", "/etc/ppp/pap-secrets",

	// What services, clouds and clusters are told.
	"/etc/credstore", "/etc/credstore.encrypted", "/etc/sssd", "/etc/pam_ldap.secret", "/etc/ldap.secret",
	"/etc/mysql/debian.cnf", "/etc/postfix/sasl_passwd*", "/etc/exim4/passwd.client", "/etc/msmtprc", "/etc/davfs2/secrets",
	"/etc/apt/auth.conf", "/etc/apt/auth.conf.d", "/etc/boto.cfg",
	"/etc/docker/key.json", "/etc/kubernetes", "/etc/rancher", "/etc/vault.d", "/etc/consul.d", "/etc/nomad.d",

	// Sockets that a program of the host takes orders from, where --bind and --rw show the directory they are in. Through
	// an overlay no socket of the host can be connected to: its file is another than the one that is listened on.
	"/run/docker.sock", "/run/docker", "/run/containerd", "/run/podman", "/run/crio", "/run/buildkit", "/run/k3s",
	"/run/cri-dockerd.sock", "/run/libvirt", "/run/snapd.socket", "/run/pcscd",
	"/run/systemd/private", "/run/dbus", "/run/udev/control",
	"/run/user/*/bus", "/run/user/*/systemd", "/run/user/*/keyring", "/run/user/*/gnupg", "/run/user/*/ssh-agent*",
	"/run/user/*/openssh_agent", "/run/user/*/gcr", "/run/user/*/wayland-*", "/run/user/*/pipewire-*", "/run/user/*/pulse",
	"/run/user/*/docker.sock", "/run/user/*/podman",
	"/tmp/.X11-unix", "/tmp/.ICE-unix", "/tmp/ssh-*", "/tmp/tmux-*",
}

// HomeSecrets are the same in a home directory that is shown.
var HomeSecrets = []string{
	".ssh", ".gnupg", ".password-store", ".pki", ".local/share/keyrings",
	".netrc", ".authinfo", ".authinfo.gpg", ".git-credentials", ".config/git/credentials", ".config/gh", ".config/glab-cli",
	".aws", ".azure", ".config/gcloud", ".oci", ".config/doctl", ".config/hcloud", ".boto", ".s3cfg", ".config/rclone",
	".kube", ".docker/config.json", ".config/containers/auth.json", ".vault-token", ".terraform.d/credentials.tfrc.json",
	".npmrc", ".yarnrc.yml", ".pypirc", ".gem/credentials", ".cargo/credentials", ".cargo/credentials.toml",
	".m2/settings.xml", ".gradle/gradle.properties",
	".pgpass", ".my.cnf", ".mysql_history", ".psql_history", ".bash_history", ".zsh_history", ".python_history",
	".mozilla", ".thunderbird", ".config/google-chrome", ".config/chromium", ".config/BraveSoftware", ".config/microsoft-edge",
	".config/Signal", ".config/1Password", ".config/Bitwarden", ".bitcoin", ".electrum",
	".Xauthority", ".ICEauthority",
}
