"""OCI images made from real files, with the standard library's tar writer."""
