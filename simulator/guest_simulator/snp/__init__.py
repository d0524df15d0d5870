"""SEV-SNP guests that do not exist: reports, certificates, the guest device."""
