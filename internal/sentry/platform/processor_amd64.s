// The bodies of what processor_amd64.go declares are another package's.
