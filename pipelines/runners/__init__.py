"""Where the live lane's pipeline runs when one machine is not enough."""
