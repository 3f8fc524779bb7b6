"""Runs a command with a connection in a network of its own, with a name server: `network.py ZONE PEER COMMAND...`, below
`unshare --mount --net`.

PEER is the address that the connection comes from; what is said on standard input and output is passed on through it.
ZONE is a Python literal: `ptr` is a list of names, each a list of labels as bytes (whatever bytes they are); `hosts` is a
dictionary of addresses by name, '*' for any; `mode` is how the server behaves, see `answer`; `resolv.conf` and `/etc/hosts`
are the texts of these files; `link-local` is one more address of this network; `forwarder` is the command of another name server, which answers at 127.0.0.2 and asks this
one. The server listens on port 53 of this network, over UDP and TCP, and writes one line for each
query into the file `queries`.
"""
import ast, fcntl, ipaddress, os, socket, struct, subprocess, sys, threading, time

ZONE = ast.literal_eval(sys.argv[1])
PEER = sys.argv[2]
MODE = ZONE.get('mode', 'normal')
PTR, A, AAAA, CNAME = 12, 1, 28, 5


def main():
    raise_loopback()
    replace('/etc/resolv.conf', ZONE.get('resolv.conf', 'nameserver 127.0.0.1\n'))
    replace('/etc/hosts', ZONE.get('/etc/hosts', ''))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(('127.0.0.1', 53))
    tcp = socket.socket()
    tcp.bind(('127.0.0.1', 53))
    if MODE != 'truncated, no TCP':
        tcp.listen()
    listener = socket.socket(family_of(PEER))
    # A link-local address has meaning on its link only; on this one it is known as PEER%lo.
    scope = '%lo' if PEER.startswith('fe80:') else ''
    listener.bind(socket.getaddrinfo(PEER + scope, 0)[0][4])
    listener.listen()
    client = socket.socket(family_of(PEER))
    client.connect(listener.getsockname())
    accepted, _ = listener.accept()
    if os.fork():
        if 'forwarder' in ZONE:
            wait_for_forwarder()
        for descriptor in range(3):
            os.dup2(accepted.fileno(), descriptor)
        os.execvp(sys.argv[3], sys.argv[3:])
    accepted.close()
    # What goes wrong here is not for the client.
    errors = os.open('network-errors', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    threading.Thread(target=serve_udp, args=(udp,), daemon=True).start()
    if MODE != 'truncated, no TCP':
        threading.Thread(target=serve_tcp, args=(tcp,), daemon=True).start()
    forwarder = subprocess.Popen(ZONE['forwarder'], stdin=subprocess.DEVNULL) if 'forwarder' in ZONE else None
    outside = socket.socket(fileno=0)
    threading.Thread(target=pass_on, args=(outside, client), daemon=True).start()
    # When the command has said its last word, all of this is over.
    pass_on(client, outside)
    if forwarder:
        forwarder.kill()
        forwarder.wait()


def wait_for_forwarder():
    """Asks it for PEER's name until there is an answer, which it then knows."""
    name = ipaddress.ip_address(PEER).reverse_pointer
    query = b'\0\1\1\0\0\1\0\0\0\0\0\0' + encoded(name.encode().split(b'.')) + struct.pack('>HH', PTR, 1)
    for _ in range(100):
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asking.settimeout(0.5)
        try:
            asking.connect(('127.0.0.2', 53))
            asking.send(query)
            asking.recv(4096)
            return
        except OSError:
            time.sleep(0.1)


def pass_on(source, target):
    while True:
        try:
            piece = source.recv(65536)
            target.sendall(piece)
        except OSError:
            piece = b''
        if not piece:
            try:
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return


def serve_udp(udp):
    while True:
        query, client = udp.recvfrom(4096)
        for reply in answer(query, 'udp'):
            udp.sendto(reply, client)


def serve_tcp(tcp):
    while True:
        connection, _ = tcp.accept()
        length, = struct.unpack('>H', connection.recv(2))
        for reply in answer(connection.recv(length), 'tcp'):
            reply = struct.pack('>H', len(reply)) + reply
            for at in range(len(reply) if MODE == 'slow TCP' else 1):
                connection.sendall(reply[at:at + 1] if MODE == 'slow TCP' else reply)
                if MODE == 'slow TCP':
                    time.sleep(0.3)
        connection.close()


def answer(query, transport):
    """The packets to send for a query."""
    labels, end = [], 12
    while query[end]:
        labels.append(query[end + 1:end + 1 + query[end]])
        end += 1 + query[end]
    name = b'.'.join(labels).decode('latin-1')
    kind, = struct.unpack('>H', query[end + 1:end + 3])
    question = query[12:end + 5]
    with open('queries', 'a') as log:
        log.write(f'{transport} {kind} {name!r}\n')
    while MODE == 'when told' and not os.path.exists('answer'):
        time.sleep(0.01)
    if MODE == 'silent' or MODE == 'PTR only' and kind != PTR:
        return []
    if kind == PTR:
        owner = b'\xc0\x0c'
        records = []
        if MODE == 'classless':
            # RFC 2317: the name is an alias of one in the customer's zone.
            owner = b'\x011\x03sub\x07example\0'
            records.append(record(b'\xc0\x0c', CNAME, owner))
        if MODE == 'chain':
            # Aliases of aliases.
            for number in range(8):
                alias = encoded([b'alias%d' % number, b'example'])
                records.append(record(owner, CNAME, alias))
                owner = alias
        if MODE == 'hoard':
            # As many names as there is room for, each of as many labels as there can be, for two octets.
            records.append(record(owner, PTR, encoded([b'x'] * 127)))
            records += [record(owner, PTR, struct.pack('>H', 0xc000 | len(query) + 12))] * 4600
        if MODE == 'about others':
            owner = encoded([b'unrelated', b'example'])
        if MODE == 'loop':
            # A name that is a pointer to itself.
            at = len(query) + 12
            records.append(record(owner, PTR, struct.pack('>H', 0xc000 | at)))
        records += [record(owner, PTR, encoded(ptr)) for ptr in ZONE.get('ptr', [])]
    else:
        family = socket.AF_INET if kind == A else socket.AF_INET6
        hosts = ZONE.get('hosts', {})
        addresses = hosts.get(name.lower(), hosts.get('*', []))
        addresses = [address for address in addresses if (':' in address) == (kind == AAAA)]
        records = [record(b'\xc0\x0c', kind, socket.inet_pton(family, address)) for address in addresses]
    rcode = {'servfail': 2, 'refused': 5, 'nxdomain': 3}.get(MODE, 0)
    if name.lower() in ZONE.get('dead', []):
        rcode = 2
    if rcode:
        records = []
    if MODE in ('truncated', 'truncated, no TCP', 'slow TCP', 'hoard') and transport == 'udp':
        return [packet(query, question, [], 0x8380)]
    reply = packet(query, question, records, 0x8180 | rcode)
    if MODE == 'noise':
        # What somebody else might send who guesses: another id, another question, no answer, no packet.
        forged = [record(b'\xc0\x0c', PTR, encoded([b'forged', b'example']))]
        other = bytes([query[0] ^ 1]) + query[1:]
        return [packet(other, question, forged, 0x8180), packet(query, b'\x01x\0\0\x0c\0\x01', forged, 0x8180),
                packet(query, question, forged, 0x0100), b'\xff' * 5, b'', reply]
    if MODE in ('forged in another case', 'another case only'):
        # The question with each letter in the other case.
        swapped = question[:-4].swapcase() + question[-4:]
        forged = [record(b'\xc0\x0c', PTR, encoded([b'forged', b'example']))]
        return [packet(query, swapped, forged, 0x8180)] + ([reply] if MODE == 'forged in another case' else [])
    return [reply]


def packet(query, question, records, flags):
    return query[:2] + struct.pack('>HHHHH', flags, 1, len(records), 0, 0) + question + b''.join(records)


def record(owner, kind, data):
    return owner + struct.pack('>HHIH', kind, 1, 60, len(data)) + data


def encoded(labels):
    return b''.join(bytes([len(label)]) + label for label in labels) + b'\0'


def replace(file, text):
    name = os.path.abspath(file.strip('/').replace('/', '-'))
    with open(name, 'w', encoding='latin-1') as replacement:
        replacement.write(text)
    subprocess.check_call(['mount', '--bind', name, file])


def family_of(address):
    return socket.AF_INET6 if ':' in address else socket.AF_INET


def raise_loopback():
    """What `ip link set lo up` and `ip address add PEER dev lo` do."""
    ipv4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ipv6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    ipv6_addresses = [ZONE['link-local']] if 'link-local' in ZONE else []
    set_flags, set_address, up_and_running, index = 0x8914, 0x8916, 0x1 | 0x40, 1
    fcntl.ioctl(ipv4, set_flags, struct.pack('16sh', b'lo', up_and_running))
    if family_of(PEER) == socket.AF_INET6:
        ipv6_addresses.append(PEER)
    for added in ipv6_addresses:
        fcntl.ioctl(ipv6, set_address, socket.inet_pton(socket.AF_INET6, added) + struct.pack('Ii', 128, index))
    if family_of(PEER) == socket.AF_INET:
        address = struct.pack('H2s4s8x', socket.AF_INET, b'', socket.inet_aton(PEER))
        fcntl.ioctl(ipv4, set_address, struct.pack('16s', b'lo:1') + address)


main()
