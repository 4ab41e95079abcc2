"""What an erasure needs to know of a person, the certificate that it leaves, and the registry of stores."""
