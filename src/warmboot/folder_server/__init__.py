"""Serves folders of this machine to one VM: NFS version 3 (RFC 1813) over TCP, as its owner.

    rpc            records and calls (RFC 5531): whose procedure it is, and what it answers
    mount, nfs     the two programs: a folder's handle; files and folders
    tree           file handles, what they stand for, and open files
    attributes     what is told of a file
    confinement    the process sees the given folders, and has the owner's rights and no more

The process is confined before it reads the first byte: whatever a guest sends, there is nothing
else that it could name. It imports the standard library alone, and has no state that a restart
would lose but open files: handles say where a file is.
"""
