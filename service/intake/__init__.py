"""How scans and requests come in, whichever way: under both HTTP and the scanner's gateway."""
