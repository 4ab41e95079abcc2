"""The person an erasure is about, the certificate it leaves, and the registry of stores that hold personal data."""
