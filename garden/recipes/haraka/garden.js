// Known users have Maildirs, which get a message as it came over the wire; all other mail goes out.

const fs = require('fs')

const DOMAIN = '__DOMAIN__'
const USERS = ['user1', 'user2']
const PEERS = {
  '__PEER_DOMAIN__': __PEER_PORT__,
}
const HOP = __HOP_PORT__

let number = 0

const isHere = address => address.host && address.host.toLowerCase() === DOMAIN

exports.hook_rcpt = function (next, connection, [recipient]) {
  if (!isHere(recipient)) {
    connection.relaying = true
    return next(OK)
  }
  if (USERS.includes(recipient.user.toLowerCase())) return next(OK)
  next(DENY, 'No such user')
}

exports.hook_queue = function (next, connection) {
  const { transaction } = connection
  const here = transaction.rcpt_to.filter(isHere)
  if (here.length === 0) return next()
  const name = `${++number}.garden`
  const message = fs.createWriteStream(`/garden/${name}`)
  message.on('finish', () => {
    for (const recipient of here) {
      const maildir = `/home/${recipient.user.toLowerCase()}/Maildir`
      fs.copyFileSync(`/garden/${name}`, `${maildir}/tmp/${name}`)
      fs.renameSync(`${maildir}/tmp/${name}`, `${maildir}/new/${name}`)
    }
    fs.unlinkSync(`/garden/${name}`)
    transaction.rcpt_to = transaction.rcpt_to.filter(recipient => !isHere(recipient))
    if (transaction.rcpt_to.length === 0) return next(OK)
    next()
  })
  transaction.message_stream.pipe(message, { line_endings: '\r\n' })
}

exports.hook_get_mx = function (next, hmail, domain) {
  next(OK, [{ exchange: '127.0.0.1', port: PEERS[domain.toLowerCase()] || HOP, priority: 0 }])
}
