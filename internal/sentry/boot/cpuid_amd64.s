// The bodies of what cpuid_amd64.go declares are another package's.
