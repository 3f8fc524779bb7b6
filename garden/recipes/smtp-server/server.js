// What the module hands over goes to Maildirs, or on with Nodemailer.

const fs = require('fs')
const nodemailer = require('nodemailer')
const { SMTPServer } = require('smtp-server')

const DOMAIN = '__DOMAIN__'
const USERS = ['user1', 'user2']
const PEERS = {
  '__PEER_DOMAIN__': __PEER_PORT__,
}
const HOP = __HOP_PORT__

let number = 0

function split (address) {
  const at = address.lastIndexOf('@')
  return [address.slice(0, at).toLowerCase(), address.slice(at + 1).toLowerCase()]
}

function deliver (user, message) {
  const name = `${++number}.garden`
  const maildir = `/home/${user}/Maildir`
  fs.writeFileSync(`${maildir}/tmp/${name}`, message)
  fs.renameSync(`${maildir}/tmp/${name}`, `${maildir}/new/${name}`)
}

const server = new SMTPServer({
  authOptional: true,
  disabledCommands: ['AUTH', 'STARTTLS'],
  disableReverseLookup: true,
  name: DOMAIN,
  size: 50000000,

  onRcptTo ({ address }, session, done) {
    const [user, domain] = split(address)
    if (domain !== DOMAIN || USERS.includes(user)) return done()
    done(Object.assign(new Error('No such user'), { responseCode: 550 }))
  },

  onData (stream, session, done) {
    const pieces = []
    stream.on('data', piece => pieces.push(piece))
    stream.on('end', async () => {
      const message = Buffer.concat(pieces)
      const elsewhere = new Map()
      for (const { address } of session.envelope.rcptTo) {
        const [user, domain] = split(address)
        if (domain === DOMAIN) {
          deliver(user, message)
        } else {
          const port = PEERS[domain] || HOP
          elsewhere.set(port, (elsewhere.get(port) || []).concat(address))
        }
      }
      try {
        const from = session.envelope.mailFrom && session.envelope.mailFrom.address
        for (const [port, to] of elsewhere) {
          const transport = nodemailer.createTransport({ host: '127.0.0.1', port, name: DOMAIN, ignoreTLS: true })
          await transport.sendMail({ envelope: { from, to }, raw: message })
        }
        done(null, 'Message taken')
      } catch (error) {
        done(error)
      }
    })
  }
})
server.on('error', error => console.error(error.message))
server.listen(__PORT__, '127.0.0.1')
